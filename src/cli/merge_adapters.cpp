// moraine merge-adapters: several adapters as one.
#include <fmt/format.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "base/path.h"
#include "base/text.h"
#include "cli/adapter_flags.h"
#include "cli/cli.h"
#include "models/registry.h"

namespace moraine {
namespace {

CombineMethod method_of(const std::string& word) {
  if (word == "cat") return CombineMethod::kCat;
  if (word == "linear") return CombineMethod::kLinear;
  throw input_error("--method", quote_text(word) + " is not supported", "one of cat and linear");
}

// --model, else the folder that the adapters name as their base model.
HfConfig config_of_base(const CommandArgs& args, const std::vector<WeightedAdapter>& adapters) {
  if (!args.model.empty()) return HfConfig::read(args.model);
  for (const WeightedAdapter& adapter : adapters) {
    const std::string base = read_lora_config(adapter.folder).base_model_name_or_path;
    if (base.empty()) continue;
    if (!path_exists(base))
      throw input_error((adapter.folder / "adapter_config.json").string(),
                        "names the base model " + quote_text(base) + ", and there is no such folder",
                        "say where it is: --model DIR; its config.json is enough");
    return HfConfig::read(base);
  }
  throw input_error("--adapter", "names no base model", "give --model DIR; its config.json is enough");
}

}  // namespace

int run_merge_adapters(const CommandArgs& args) {
  const CombineMethod method = method_of(args.method);
  const std::vector<WeightedAdapter> adapters = weighted_adapters(args);
  const auto layout = make_layout(config_of_base(args, adapters), DtypeChoice::kBFloat16);
  warn_of_unmatched_targets(*layout, adapters);
  const MergedAdapters merged = merge_adapters(*layout, adapters, method, args.out);
  const std::string ranks = merged.lowest_rank == merged.highest_rank
                                ? fmt::format("rank {}", merged.lowest_rank)
                                : fmt::format("ranks {} to {}", merged.lowest_rank, merged.highest_rank);
  log_info("Wrote {}: {} adapter{} as one of {} linear layers and {} parameters, {}; {} tensors, {}", args.out,
           adapters.size(), adapters.size() == 1 ? "" : "s", merged.linear_layers, merged.parameters, ranks,
           merged.written.tensors, format_bytes(merged.written.bytes));
  return 0;
}

}  // namespace moraine
