// A plan as JSON and as tables.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/json.h"
#include "plan/mesh_choice.h"
#include "plan/run_plan.h"

namespace moraine {

// Whether a plan fits a limit, and if not, what would.
struct PlanVerdict {
  std::optional<uint64_t> memory_per_rank;
  std::optional<bool> fits;
  std::string advice;  // "" = none needed
};

// How long a step takes on the device that --device names, and which meshes there are; without one nothing.
struct StepPrediction {
  std::optional<StepTime> time;
  std::vector<RunOption> options;  // the best first
  std::string decision;            // why the first is taken, where the recipe leaves it to be decided
};

OrderedJson plan_json(const PlannedModel& model, const RunPlan& plan, const PlanVerdict& verdict,
                      const StepPrediction& prediction);
std::string plan_tables(const PlannedModel& model, const RunPlan& plan, const PlanVerdict& verdict,
                        const StepPrediction& prediction);

}  // namespace moraine
