// What score and generate do first: settings from overrides, the model and its adapters from their folders.
#pragma once

#include <optional>

#include "adapter/open_adapter.h"
#include "checkpoint/loaded_model.h"
#include "cli/cli.h"
#include "config/recipe.h"
#include "run/run_inputs.h"

namespace moraine {

// The recipe keys that --model's commands take as overrides, with --model for model.path. Throws input errors for keys
// that a flag says already.
Recipe read_overrides(const CommandArgs& args);

// Throws an input error when the mesh that the overrides ask for does not fit so many ranks.
void check_mesh(const Recipe& recipe, int64_t ranks);

// What is cheap to find wrong: headers, config.json and the adapter's configuration.
struct OpenedInputs {
  RunGroups run;
  OpenedCheckpoint checkpoint;
};

// Opens --model and --adapter on all ranks of control's world, which must all call this. Refuses ranks that were given
// different ones, or different --tokens.
OpenedInputs open_inputs(const CommandArgs& args, const Recipe& recipe, Control& control);

struct OpenedModel {
  RunGroups run;
  LoadedModel loaded;
  std::optional<AdapterState> adapter;  // with --adapter: all of them as one

  MeshGroups& groups() { return run.groups; }
  AdapterState* adapter_state() { return adapter ? &*adapter : nullptr; }
};

// Loads their weights on all ranks, which must all call this.
OpenedModel load_inputs(OpenedInputs inputs, const CommandArgs& args, const Recipe& recipe, Control& control);

}  // namespace moraine
