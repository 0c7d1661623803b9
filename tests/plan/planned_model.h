// Qwen3-30B-A3B as plans see it: its config.json, no weights.
#pragma once

#include <string>
#include <vector>

#include "plan/planned_run.h"

namespace moraine {

struct PlannedQwen3 {
  Recipe recipe(std::vector<std::string> overrides = {}) const {
    overrides.push_back("model.path=" MORAINE_TESTS_DIR "/golden/configs/Qwen3-30B-A3B");
    return recipe_from_overrides(overrides);
  }
  PlannedRun run(int64_t world, const std::vector<std::string>& overrides) const {
    return planned_run(recipe(overrides), model, world, world);
  }

  OpenedCheckpoint checkpoint = open_planned_checkpoint(recipe());
  PlannedModel model = planned_model(recipe(), checkpoint);
};

}  // namespace moraine
