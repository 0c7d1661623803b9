// train.micro_batch_tokens: auto, worked out from the plan of the run.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "plan/planned_run.h"

namespace moraine {

struct MicroBatchPlan {
  int64_t tokens = 0;
  std::string why;  // in words that follow "auto is N: "
};

// data.max_length, which every run needs anyway, as long as twice as many tokens fit into nine tenths of
// `memory_per_rank` twice that, up to 16,384 or all that a rank has in a step. Without `memory_per_rank` (not known):
// data.max_length. Pure: the same on every rank that is given the same.
MicroBatchPlan plan_micro_batch_tokens(const PlannedModel& model, PlannedRun run,
                                       std::optional<uint64_t> memory_per_rank);

}  // namespace moraine
