// moraine merge: an adapter folded into its base model.
#include "adapter/merge.h"

#include <ATen/Parallel.h>

#include "base/bytes.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/max_shard_size.h"

namespace moraine {

int run_merge(const CommandArgs& args) {
  const MergedCheckpoint merged =
      merge_adapter(args.model, args.adapter, args.out, max_shard_bytes(args), at::get_num_threads());
  const RewrittenCheckpoint& written = merged.written;
  log_info("Wrote {}: {} linear layers and {} expert parameters merged; {} tensors, {} in {} file{}", args.out,
           merged.linear_layers, merged.expert_parameters, written.tensors, format_bytes(written.bytes), written.files,
           written.files == 1 ? "" : "s");
  if (written.dequantized > 0)
    log_info("The base model is quantised: its {} quantised tensors, merged or not, are bfloat16 now",
             written.dequantized);
  return 0;
}

}  // namespace moraine
