// The facts about a run that none of its folder's other files hold.
#pragma once

#include <vector>

#include "adapter/open_adapter.h"
#include "base/json.h"
#include "checkpoint/loaded_model.h"
#include "config/recipe.h"
#include "run/run_inputs.h"

namespace moraine {

struct DescribedRun {
  const Recipe& recipe;
  const WorldInfo& world;
  const Mesh& mesh;
  const OpenedCheckpoint& checkpoint;
  const LoadedModel& loaded;
  const OpenedAdapter& adapter;
  const DataRows& training;
  const DataRows& held_out;
  const std::vector<OrderedJson>& load_reports;
  int64_t steps = 0, batch_size = 0;
};

// For run.json (run_record.h), on rank 0. What memory the plan says is there on the CPU only, which plans are of.
OrderedJson describe_run(const DescribedRun& run);

}  // namespace moraine
