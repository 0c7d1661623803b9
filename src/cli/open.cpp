#include "cli/open.h"

#include <fmt/format.h>

#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/fingerprint.h"
#include "cli/adapter_flags.h"
#include "distributed/control/agreement.h"
#include "formats/folder_parts.h"

namespace moraine {

Recipe read_overrides(const CommandArgs& args) {
  Recipe recipe = recipe_from_overrides(args.overrides);
  if (!recipe.model.path.empty()) throw input_error("model.path", "is not used here", "--model says which model");
  if (!recipe.adapter.init_from.empty()) {
    throw input_error("adapter.init_from", "is not used here", "--adapter says which adapter");
  }
  if (recipe.load.mode == LoadMode::kRank0)
    throw input_error("load.mode", "rank0 is not built yet for this command", "use direct or node");
  recipe.model.path = args.model;
  return recipe;
}

void check_mesh(const Recipe& recipe, int64_t ranks) {
  require_no_choices(recipe);
  Mesh::make(ranks, {recipe.mesh.ep, recipe.mesh.fsdp, recipe.mesh.replicate});
}

namespace {

// Ranks that see different files would score something that is nowhere.
void check_same_inputs(Control& control, const CommandArgs& args) {
  if (!control.world().distributed()) return;
  std::vector<std::pair<std::string, std::string>> values;
  auto add = [&](const std::string& what, const std::filesystem::path& file) {
    values.emplace_back(what, hash_text(read_text_file(file, std::numeric_limits<uint64_t>::max())));
  };
  size_t number = 0;
  for (const WeightedAdapter& adapter : weighted_adapters(args)) {
    const std::string which = ++number == 1 ? "" : fmt::format(" of --adapter {}", number);
    add("adapter_config.json" + which, adapter.folder / "adapter_config.json");
    values.emplace_back("the weight" + which, fmt::format("{}", adapter.weight));
  }
  if (!args.tokens.empty()) add("--tokens", args.tokens);
  check_agreement(control, "input", values);
}

}  // namespace

OpenedInputs open_inputs(const CommandArgs& args, const Recipe& recipe, Control& control) {
  // The small file first: a wrong adapter should not cost the time of loading the model.
  const std::vector<WeightedAdapter> adapters = weighted_adapters(args);
  for (const WeightedAdapter& adapter : adapters) {
    read_lora_config(adapter.folder);
    find_in_folder(adapter.folder, FolderPart::kAdapterWeights);
  }
  RunGroups run = make_run_groups(recipe, control);
  OpenedCheckpoint checkpoint = open_run_checkpoint(recipe, run.groups);
  expert_range(checkpoint.shape().num_experts, run.groups.mesh.ep, 0);  // refuses more ep ranks than experts
  read_selections(checkpoint.layout(), adapters);
  check_same_on_all_ranks(control, recipe, checkpoint);
  check_same_inputs(control, args);
  return {std::move(run), std::move(checkpoint)};
}

OpenedModel load_inputs(OpenedInputs inputs, const CommandArgs& args, const Recipe& recipe, Control& control) {
  control.set_stage("load");
  RunGroups& run = inputs.run;
  LoadedModel loaded = load_model(inputs.checkpoint, load_settings(recipe, control.world(), run.device), run.groups);
  OpenedModel opened{std::move(run), std::move(loaded), {}};
  if (const std::vector<WeightedAdapter> adapters = weighted_adapters(args); !adapters.empty()) {
    const LoadedModel& model = opened.loaded;
    const ModelLayout& layout = model.model->layout();
    const auto factors = open_factors(layout, adapters);
    opened.adapter.emplace(factors->modules(), model.experts->local_experts(), model.device);
    import_factors(*opened.adapter, *factors);
    if (control.world().rank == 0) warn_of_unmatched_targets(layout, adapters);
  }
  return opened;
}

}  // namespace moraine
