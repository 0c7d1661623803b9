// What would make a run fit that does not, and what would spare its ranks most of what they send.
#pragma once

#include <cstdint>
#include <string>

#include "plan/planned_run.h"

namespace moraine {

// A sentence about the change of the recipe that brings the fullest rank under `limit` bytes, with the figure it
// brings: of changes that leave the mathematics alone (mesh, micro-batches, recomputation) the one that saves most;
// where none is enough, several; then shorter sequences; then more ranks. `run` must not fit.
std::string plan_advice(const PlannedModel& model, const PlannedRun& run, uint64_t limit);

// A sentence about the mesh.ep with which rank 0 receives least in a step, with both figures; "" when that is not less
// than half of what it receives now.
std::string traffic_advice(const PlannedModel& model, const PlannedRun& run);

}  // namespace moraine
