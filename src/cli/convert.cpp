// moraine convert: a checkpoint in another dtype, quantised weights dequantised.
#include <ATen/Parallel.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/rewrite_checkpoint.h"
#include "cli/cli.h"
#include "cli/max_shard_size.h"

namespace moraine {
namespace {

DType wanted_dtype(const std::string& name) {
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float32") return DType::kF32;
  throw input_error("--dtype", quote_text(name) + " is not a dtype that can be written", "bfloat16 or float32");
}

}  // namespace

int run_convert(const CommandArgs& args) {
  const RewriteOptions options{
      .dtype = wanted_dtype(args.dtype), .max_file_bytes = max_shard_bytes(args), .num_threads = at::get_num_threads()};
  const RewrittenCheckpoint written =
      rewrite_checkpoint(open_checkpoint(args.model, DtypeChoice::kBFloat16), args.out, options);
  log_info("Wrote {}: {} tensors, {} in {} file{}, {}: {} were quantised, {} of another dtype", args.out,
           written.tensors, format_bytes(written.bytes), written.files, written.files == 1 ? "" : "s", args.dtype,
           written.dequantized, written.converted);
  return 0;
}

}  // namespace moraine
