// A plan as JSON and as tables.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/json.h"
#include "plan/run_plan.h"

namespace moraine {

// Whether a plan fits a limit, and if not, what would.
struct PlanVerdict {
  std::optional<uint64_t> memory_per_rank;
  std::optional<bool> fits;
  std::string advice;  // "" = none needed
};

OrderedJson plan_json(const PlannedModel& model, const RunPlan& plan, const PlanVerdict& verdict);
std::string plan_tables(const PlannedModel& model, const RunPlan& plan, const PlanVerdict& verdict);

}  // namespace moraine
