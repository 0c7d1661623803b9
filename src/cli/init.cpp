// moraine init: a random checkpoint.
#include "base/bytes.h"
#include "base/format_count.h"
#include "base/log.h"
#include "checkpoint/random_checkpoint.h"
#include "cli/cli.h"

namespace moraine {

int run_init(const CommandArgs& args) {
  const RandomCheckpoint written =
      write_random_checkpoint(args.config, args.out, {.dtype = args.dtype, .seed = args.seed});
  log_info("Wrote {}: {} parameters in {} tensors, {} in {} file{}, {}", args.out, format_count(written.parameters),
           written.tensors, format_bytes(written.bytes), written.files, written.files == 1 ? "" : "s", written.dtype);
  return 0;
}

}  // namespace moraine
