#include "plan/micro_batch_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"
#include "plan/memory_plan.h"

namespace moraine {
namespace {

constexpr int64_t kMostAtOnce = 1 << 14;  // more make a step no faster: kernels' launches are hidden behind others

}  // namespace

MicroBatchPlan plan_micro_batch_tokens(const PlannedModel& model, PlannedRun run,
                                       std::optional<uint64_t> memory_per_rank) {
  run.micro_batch_tokens = run.max_length;
  if (!memory_per_rank) return {run.max_length, "data.max_length, as the memory of a rank is not known"};
  const uint64_t limit = *memory_per_rank / 10 * 9;
  const int64_t world = run.mesh.world_size();
  const int64_t most = std::min(kMostAtOnce, (run.batch_size + world - 1) / world * run.max_length);
  uint64_t peak = largest_peak(model, run);
  while (run.micro_batch_tokens * 2 <= most) {
    PlannedRun larger = run;
    larger.micro_batch_tokens = run.micro_batch_tokens * 2;
    const uint64_t its_peak = largest_peak(model, larger);
    if (its_peak > limit) break;
    run = larger;
    peak = its_peak;
  }
  return {run.micro_batch_tokens,
          fmt::format("by the plan a rank then needs {} of {}", format_bytes(peak), format_bytes(*memory_per_rank))};
}

}  // namespace moraine
