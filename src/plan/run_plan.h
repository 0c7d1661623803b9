// The plan of a run: every rank's reading and memory, what travels, and whether it fits.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "plan/memory_plan.h"
#include "plan/traffic_plan.h"

namespace moraine {

struct PlannedRank {
  int64_t rank = 0, node = 0;
  uint64_t bytes_read = 0;
  size_t memory = 0;  // index into RunPlan::memories
  StepTraffic received;
};

struct RunPlan {
  PlannedRun run;
  std::vector<PlannedRank> ranks;
  std::vector<RankMemory> memories;           // one a memory_class
  std::vector<uint64_t> doubled_activations;  // beside them: when twice the average of rows, as far as there are so
                                              // many, come to a rank's experts
  StepTraffic step;                           // of the whole world
  LoadTraffic load;
  uint64_t peak = 0;  // of the fullest rank

  const RankMemory& memory_of(const PlannedRank& rank) const { return memories[rank.memory]; }
};

// Pure, and quick enough for thousands of ranks. Throws an input error when train.recompute: none meets sharded
// weights, as training does.
RunPlan plan_run(const PlannedModel& model, const PlannedRun& run);

}  // namespace moraine
