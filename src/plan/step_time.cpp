#include "plan/step_time.h"

#include <algorithm>
#include <map>

#include "adapter/adapter_collectives.h"
#include "adapter/optimizer.h"
#include "plan/pass_run.h"
#include "plan/rank_group.h"
#include "plan/traffic_plan.h"
#include "plan/transfer_plan.h"
#include "tensor/planned_tensors.h"

namespace moraine {
namespace {

StepTime& operator+=(StepTime& sum, const StepTime& more) {
  sum.products += more.products, sum.memory += more.memory, sum.launches += more.launches;
  sum.network += more.network, sum.pcie += more.pcie;
  sum.useful_flops += more.useful_flops;
  return sum;
}

StepTime times(StepTime time, double factor) {
  for (double* part : {&time.products, &time.memory, &time.launches, &time.network, &time.pcie, &time.useful_flops})
    *part *= factor;
  return time;
}

// Bytes that a rank receives straight from each other one; links within a node and between nodes work side by side.
double exchange_seconds(const NetworkBytes& bytes, const DeviceRates& rates) {
  return std::max(bytes.within_node / rates.nvlink, bytes.between_nodes / rates.network) / rates.link_part;
}

// An all-gather of a part from each rank: rings that leave a node use the adapters of all its ranks.
double gather_seconds(const RankGroup& group, double part_bytes, const DeviceRates& rates) {
  if (group.size() == 1) return 0;
  const int64_t on_node = group.node_peers() + 1;
  const double rate =
      on_node == group.size() ? rates.nvlink : std::min(rates.nvlink, rates.network * static_cast<double>(on_node));
  return static_cast<double>(group.size() - 1) * part_bytes / (rate * rates.link_part);
}

// As ProcessGroup::all_reduce_in_rank_order: parts all to all, then their sums.
double reduce_seconds(const RankGroup& group, int64_t elements, const PlannedRun& run) {
  if (group.size() == 1 || elements == 0) return 0;
  const double part = static_cast<double>(section_part_size(elements, group.size())) *
                      static_cast<double>(c10::elementSize(gradient_dtype(run.device)));
  return exchange_seconds(group.from_each(part), run.rates) + gather_seconds(group, part, run.rates);
}

// AdamW's step on this rank's part of the adapter.
struct UpdateRuns {
  std::map<std::array<int64_t, 3>, DeviceWork> by_sizes;
};

const DeviceWork& update_work(const PlannedModel& model, const PlannedRun& run, ExpertRange experts) {
  const AdapterLayout layout = lay_out_adapter(model.targets, experts);
  const auto [known, is_new] =
      model.passes->of<UpdateRuns>().by_sizes.try_emplace({layout.dense_size, layout.expert_size, run.mesh.ep_fsdp});
  if (is_new) {
    PlannedTensors tensors(run.device);
    OperatorCount operators;
    AdapterState adapter(model.targets, experts, at::kMeta);
    adapter.shard_experts({0, run.mesh.ep_fsdp});
    AdamW optimizer(adapter, TrainConfig{});
    operators.take();
    adapter.zero_grads();
    optimizer.step(1e-4, 1.0);
    known->second = operators.take();
  }
  return known->second;
}

// `time` while `transfers` come beside it.
StepTime beside(StepTime time, double network, double pcie) {
  const double longer = std::max(network, pcie) - time.seconds();
  if (longer > 0) (network >= pcie ? time.network : time.pcie) += longer;
  return time;
}

class StepPredictor {
 public:
  StepPredictor(const PlannedModel& model, const PlannedRun& run)
      : model_(model),
        run_(run),
        rates_(run.rates),
        experts_(expert_range(model.shape.num_experts, run.mesh.ep, 0)),
        pass_(run_pass(model, plan_pass(model, run, /*rank=*/0))) {}

  StepTime step() const {
    StepTime step = times(micro_step(), static_cast<double>(run_.micro_steps()));
    step.network += exchange_seconds(StepTrafficPlanner(model_, run_).of(0).token_exchange, rates_);
    step += update();
    step.tokens_a_second = static_cast<double>(run_.batch_size * run_.max_length) / step.seconds();
    step.mfu = step.useful_flops / step.seconds() / rates_.half_flops;
    return step;
  }

 private:
  StepTime micro_step() const {
    const int64_t first = model_.first_adapted_layer();
    StepTime sum = part(pass_.head.work);
    sum.useful_flops += pass_.head.work.flops() * pass_.times;
    for (const TurnTransfers& turn : transfers_of_micro_step(model_, run_, experts_)) {
      const LayerRun& layer = pass_.layers[turn.turn.layer];
      const bool keeps_tape = !run_.recompute && turn.turn.layer >= first;
      StepTime time = part(turn.backwards ? layer.backward_work : keeps_tape ? layer.again_work : layer.forward_work);
      time.useful_flops = (turn.backwards ? layer.backward_work : layer.forward_work).flops() * pass_.times;
      if (turn.backwards && run_.recompute) time += part(layer.again_work);
      sum += beside({}, network_seconds(turn.before), copy_seconds(turn.before));
      sum += beside(time, network_seconds(turn.during), copy_seconds(turn.during));
    }
    return sum;
  }

  StepTime update() const {
    StepTime time = time_of(update_work(model_, run_, experts_), rates_);
    const AdapterLayout adapter = lay_out_adapter(model_.targets, experts_);
    const int64_t owned = section_part_size(adapter.expert_size, run_.mesh.ep_fsdp);
    time.network += reduce_seconds(RankGroup(run_, MeshAxis::kWorld, 0), adapter.dense_size, run_) +
                    reduce_seconds(RankGroup(run_, MeshAxis::kExpertPeers, 0), owned * run_.mesh.ep_fsdp, run_) +
                    gather_seconds(RankGroup(run_, MeshAxis::kEpFsdp, 0), static_cast<double>(owned) * kFloat, rates_);
    return time;
  }

  StepTime part(const DeviceWork& work) const { return times(time_of(work, rates_), pass_.times); }

  double network_seconds(const Transfers& transfers) const {
    return gather_seconds(RankGroup(run_, MeshAxis::kFsdp, 0), transfers.dense_shards, rates_) +
           gather_seconds(RankGroup(run_, MeshAxis::kEpFsdp, 0), transfers.expert_shards, rates_);
  }
  double copy_seconds(const Transfers& transfers) const { return transfers.copied / rates_.pcie; }

  const PlannedModel& model_;
  const PlannedRun& run_;
  const DeviceRates& rates_;
  ExpertRange experts_;
  const PassRun& pass_;
};

}  // namespace

const char* StepTime::bound_by() const {
  const std::pair<double, const char*> parts[] = {{products, "products"},
                                                  {memory, "memory bandwidth"},
                                                  {launches, "launches"},
                                                  {network, "network"},
                                                  {pcie, "PCIe"}};
  return std::max_element(std::begin(parts), std::end(parts),
                          [](const auto& a, const auto& b) { return a.first < b.first; })
      ->second;
}

StepTime time_of(const DeviceWork& work, const DeviceRates& rates) {
  StepTime time;
  double launched = 0;
  for (const auto& [operation, count] : work.operations) {
    const double arithmetic = operation.flops / rates.flops_reached(operation.product),
                 memory = operation.bytes / (rates.memory_rate * rates.memory_part);
    (arithmetic > memory ? time.products : time.memory) += std::max(arithmetic, memory) * count;
    launched += rates.launch * count;
  }
  if (launched > time.seconds()) {
    time = {};
    time.launches = launched;
  }
  return time;
}

StepTime predict_step(const PlannedModel& model, const PlannedRun& run) { return StepPredictor(model, run).step(); }

}  // namespace moraine
