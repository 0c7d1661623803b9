// moraine merge: adapters folded into their base model.
#include "adapter/merge.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/bytes.h"
#include "base/json.h"
#include "base/log.h"
#include "base/output.h"
#include "cli/adapter_flags.h"
#include "cli/cli.h"
#include "cli/max_shard_size.h"
#include "models/model_layout.h"
#include "text/rows/dataset.h"

namespace moraine {
namespace {

struct Losses {
  double adapter = 0, merged = 0;
};

std::optional<Losses> losses(const CommandArgs& args) {
  if (args.score_tokens.empty()) return std::nullopt;
  CommandArgs scored = args;
  scored.tokens = args.score_tokens;
  const double adapter = score_loss(scored);
  scored.model = args.out;
  scored.adapters.clear();
  return Losses{adapter, score_loss(scored)};
}

void print_text(const CommandArgs& args, const MergedCheckpoint& merged, const std::optional<Losses>& scored) {
  constexpr size_t kNamed = 3;
  const RewrittenCheckpoint& written = merged.written;
  log_info("Wrote {}: {} linear layers, {}{}and {} expert parameters merged; {} tensors, {} in {} file{}", args.out,
           merged.linear_layers, merged.embeddings > 0 ? "the embedding, " : "",
           merged.routers > 0 ? fmt::format("{} routers, ", merged.routers) : "", merged.expert_parameters,
           written.tensors, format_bytes(written.bytes), written.files, written.files == 1 ? "" : "s");
  if (written.dequantized > 0)
    log_info("The base model is quantised: its {} quantised tensors, merged or not, are bfloat16 now",
             written.dequantized);
  if (!written.requantized.empty()) {
    log_info(
        "{} merged tensors were quantised again; the differences from the exact sums, as rms of rms and largest of "
        "largest, at the worst:",
        written.requantized.size());
    for (size_t i = 0; i < std::min(kNamed, written.requantized.size()); ++i) {
      const QuantizationError& error = written.requantized[i];
      log_info("  {}: rms {:.2g}, largest {:.2g}", error.tensor, error.rms, error.largest);
    }
  }
  if (scored)
    log_info("{}: loss {:.6f} with the adapter, {:.6f} merged", args.score_tokens, scored->adapter, scored->merged);
}

OrderedJson merge_json(const CommandArgs& args, const MergedCheckpoint& merged, const std::optional<Losses>& scored) {
  const RewrittenCheckpoint& written = merged.written;
  OrderedJson json{{"out", args.out},
                   {"linear_layers", merged.linear_layers},
                   {"embeddings", merged.embeddings},
                   {"routers", merged.routers},
                   {"expert_parameters", merged.expert_parameters},
                   {"tensors", written.tensors},
                   {"bytes", written.bytes},
                   {"files", written.files},
                   {"dequantized", written.dequantized},
                   {"requantized", OrderedJson::array()}};
  for (const QuantizationError& error : written.requantized)
    json["requantized"].push_back({{"tensor", error.tensor}, {"rms", error.rms}, {"largest", error.largest}});
  if (scored) json["loss"] = {{"adapter", scored->adapter}, {"merged", scored->merged}};
  return json;
}

}  // namespace

int run_merge(const CommandArgs& args) {
  if (!args.score_tokens.empty())  // before the merge
    read_tokens_file(args.score_tokens, make_layout(HfConfig::read(args.model))->shape().vocab_size);
  const MergedCheckpoint merged = merge_adapter(args.model, weighted_adapters(args), args.out, max_shard_bytes(args),
                                                at::get_num_threads(), args.keep_format);
  const std::optional<Losses> scored = losses(args);
  if (args.json)
    print_json(merge_json(args, merged, scored));
  else
    print_text(args, merged, scored);
  return 0;
}

}  // namespace moraine
