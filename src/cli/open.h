// What score and generate do first: settings from overrides, the model and its adapter from their folders.
#pragma once

#include <optional>

#include "adapter/open_adapter.h"
#include "cli/cli.h"
#include "config/recipe.h"
#include "models/loaded_model.h"

namespace moraine {

// The recipe keys that --model's commands take as overrides. Throws input errors for keys that a flag says already and
// for a mesh of more than one rank.
Recipe read_overrides(const CommandArgs& args);

struct OpenedModel {
  MeshGroups groups;  // of one process
  LoadedModel loaded;
  std::optional<OpenedAdapter> adapter;  // with --adapter

  AdapterState* adapter_state() { return adapter ? &adapter->state : nullptr; }
};

// Loads --model and --adapter.
OpenedModel open_for_command(const CommandArgs& args, const Recipe& recipe);

}  // namespace moraine
