#include "plan/run_plan.h"

#include <algorithm>
#include <map>

namespace moraine {

RunPlan plan_run(const PlannedModel& model, const PlannedRun& run) {
  if (!run.recompute) check_recompute(Recompute::kNone, plan_memory(model, run, 0).gather_buffers == 0);
  RunPlan plan;
  plan.run = run;
  std::map<std::vector<int64_t>, size_t> classes;
  StepTrafficPlanner traffic(model, run);
  const std::vector<RankReads> reads = plan_reads_of_ranks(model, run);
  const std::vector<uint64_t> bytes_read = bytes_read_by_mode(reads, run);
  for (int64_t rank = 0; rank < run.mesh.world_size(); ++rank) {
    const auto [known, is_new] = classes.try_emplace(memory_class(model, run, rank), plan.memories.size());
    if (is_new) {
      plan.memories.push_back(plan_memory(model, run, rank));
      plan.doubled_activations.push_back(plan_memory(model, run, rank, /*imbalance=*/2.0).activations);
    }
    PlannedRank planned{rank, run.node_of(rank), bytes_read[rank], known->second, traffic.of(rank)};
    plan.step.image_gathers += planned.received.image_gathers;
    plan.step.token_exchange += planned.received.token_exchange;
    plan.step.gradient_reduction += planned.received.gradient_reduction;
    plan.step.updated_values += planned.received.updated_values;
    plan.peak = std::max(plan.peak, plan.memories[planned.memory].peak());
    plan.ranks.push_back(planned);
  }
  plan.load = plan_load_traffic(reads, run);
  return plan;
}

}  // namespace moraine
