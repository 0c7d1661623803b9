#include "cli/open.h"

#include "base/error.h"
#include "dist/launch.h"

namespace moraine {

Recipe read_overrides(const CommandArgs& args) {
  Recipe recipe = recipe_from_overrides(args.overrides);
  if (!recipe.model.path.empty()) throw input_error("model.path", "is not used here", "--model says which model");
  if (!recipe.adapter.init_from.empty()) {
    throw input_error("adapter.init_from", "is not used here", "--adapter says which adapter");
  }
  if (recipe.mesh.ep > 1 || recipe.mesh.fsdp.value_or(1) > 1 || recipe.mesh.replicate.value_or(1) > 1) {
    throw input_error("mesh", "more than one rank: not built yet", "leave it out");
  }
  if (recipe.load.mode != "direct") throw input_error("load.mode", "not built yet", "use direct");
  if (recipe.model.base_format != "stored") throw input_error("model.base_format", "not built yet", "leave it out");
  return recipe;
}

OpenedModel open_for_command(const CommandArgs& args, const Recipe& recipe) {
  LoadSettings settings;
  settings.verify = parse_verify(recipe.load.verify);
  settings.num_threads = static_cast<int>(default_thread_count(1));
  // The small file first: a wrong adapter should not cost the time of loading the model.
  if (!args.adapter.empty()) read_lora_config(args.adapter);
  MeshGroups groups = single_rank_groups();
  LoadedModel loaded_model = open_model(args.model, recipe.model.dtype, settings, groups);
  OpenedModel opened{std::move(groups), std::move(loaded_model), {}};
  if (!args.adapter.empty()) {
    const LoadedModel& loaded = opened.loaded;
    opened.adapter.emplace(open_adapter(loaded.model->layout(), args.adapter, loaded.experts->local_experts(), loaded.device));
  }
  return opened;
}

}  // namespace moraine
