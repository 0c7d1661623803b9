// Which weights come to a rank while it runs the layers of a micro-step: the schedule that WeightStore follows, walked
// with sizes alone.
#pragma once

#include <vector>

#include "parallel/layer_turns.h"
#include "plan/planned_run.h"

namespace moraine {

// Bytes of shards whose images are gathered from other ranks, and of images that are copied from the host's memory.
struct Transfers {
  double dense_shards = 0, expert_shards = 0;
  double copied = 0;
};

struct TurnTransfers {
  LayerTurn turn;
  bool backwards = false;
  Transfers before;  // what the layer waits for, because nothing asked for it ahead
  Transfers during;  // for the next layer, while this one runs
};

// The turns of the forward pass, then those of the backward pass. Of a micro-step that finds in the buffers what one
// before it has left. The root's image stays in its buffer for good.
std::vector<TurnTransfers> transfers_of_micro_step(const PlannedModel& model, const PlannedRun& run,
                                                   ExpertRange experts);

}  // namespace moraine
