// train.micro_batch_tokens: auto on the ranks of a run.
#pragma once

#include "adapter/adapter_state.h"
#include "checkpoint/loaded_model.h"
#include "config/recipe.h"
#include "distributed/collectives/mesh_groups.h"
#include "distributed/control/launch.h"

namespace moraine {

// What auto stands for (plan/micro_batch_plan) with the memory that the rank with the least has, and says so in the
// log. Memory is known of GPUs that ranks do not share. Call with base weights and adapter in place; all ranks must.
MicroBatchTokens auto_micro_batch_tokens(const Recipe& recipe, const WorldInfo& world, const LoadedModel& loaded,
                                         const OpenedCheckpoint& checkpoint, const AdapterState& adapter,
                                         MeshGroups& groups);

}  // namespace moraine
