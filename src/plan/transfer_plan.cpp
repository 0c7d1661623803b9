#include "plan/transfer_plan.h"

#include <array>

#include "models/image_order.h"
#include "parallel/placement.h"

namespace moraine {
namespace {

void want(GatherSchedule& schedule, int image, Transfers& transfers) {
  if (schedule.is_resident(image) || !schedule.want(image).gathers) return;
  const HeldImage& held = schedule.image(image);
  const double shard = static_cast<double>(held.shard_bytes);
  if (held.on_host)
    transfers.copied += static_cast<double>(held.bytes);
  else if (held.lane == lane_of(ImageKind::kExperts))
    transfers.expert_shards += shard;
  else
    transfers.dense_shards += shard;
}

std::array<int, 2> images_of(int64_t layer) { return {dense_image(layer), experts_image(layer)}; }

void walk(GatherSchedule& schedule, const std::vector<LayerTurn>& order, bool backwards,
          std::vector<TurnTransfers>& turns) {
  for (const LayerTurn& turn : order) {
    TurnTransfers& transfers = turns.emplace_back(TurnTransfers{turn, backwards, {}, {}});
    for (int image : images_of(turn.layer)) {
      schedule.acquire(image);
      want(schedule, image, transfers.before);
    }
    if (turn.next) {
      for (int image : images_of(*turn.next)) want(schedule, image, transfers.during);
    }
    for (int image : images_of(turn.layer)) schedule.release(image);
  }
}

}  // namespace

std::vector<TurnTransfers> transfers_of_micro_step(const PlannedModel& model, const PlannedRun& run,
                                                   ExpertRange experts) {
  GatherSchedule schedule = gather_schedule(model, run, experts);
  const int64_t layers = model.shape.num_hidden_layers;
  std::vector<TurnTransfers> turns;
  for (int warm = 0; warm < 2; ++warm) {  // the second micro-step finds what the first one left
    turns.clear();
    walk(schedule, forward_turns(layers), false, turns);
    walk(schedule, backward_turns(layers, model.first_adapted_layer()), true, turns);
  }
  return turns;
}

}  // namespace moraine
