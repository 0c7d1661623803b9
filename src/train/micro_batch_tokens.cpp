#include "train/micro_batch_tokens.h"

#include "base/log.h"
#include "distributed/collectives/device.h"
#include "plan/micro_batch_plan.h"

namespace moraine {

MicroBatchTokens auto_micro_batch_tokens(const Recipe& recipe, const WorldInfo& world, const LoadedModel& loaded,
                                         const OpenedCheckpoint& checkpoint, const AdapterState& adapter,
                                         MeshGroups& groups) {
  constexpr int64_t kNotKnown = 0;
  const bool is_known = loaded.device.is_cuda() && recipe.dist.backend != BackendChoice::kGloo;
  const int64_t own = is_known ? static_cast<int64_t>(available_device_bytes(loaded.device)) : kNotKnown;
  at::Tensor least = at::full({1}, own, at::TensorOptions().dtype(at::kLong)).to(loaded.device);
  groups.world->all_reduce(least, ReduceKind::kMin);
  const int64_t memory = least.item<int64_t>();

  std::vector<LoraModule> targets;
  for (const AdapterEntry& entry : adapter.entries()) targets.push_back(entry.module);
  const PlannedModel model(checkpoint, std::move(targets), adapter.dropout());
  PlannedRun run = planned_run(recipe, model, world.world_size, world.local_world_size);
  run.device = loaded.device;
  const MicroBatchPlan plan = plan_micro_batch_tokens(
      model, run, memory == kNotKnown ? std::nullopt : std::optional(static_cast<uint64_t>(memory)));
  log_info("train.micro_batch_tokens: auto is {}: {}", plan.tokens, plan.why);
  return {MicroBatchTokens::Kind::kTokens, plan.tokens};
}

}  // namespace moraine
