// The adapter on many ranks: what travels between them each step.
//
// Linear layers' adapters are replicated on all ranks; experts' are split over ep, and each part is updated by its
// owner among the ranks that hold the same experts.
#pragma once

#include "adapter/adapter_state.h"
#include "distributed/collectives/mesh_groups.h"

namespace moraine {

// Elements that a collective takes at a time: large enough for bandwidth, small enough that its own buffers stay small.
inline constexpr int64_t kReducedAtOnce = int64_t{1} << 21;

// Sums gradients over the ranks that hold the same tensors, in flat buckets. All ranks of the world must call this.
// Every rank's loss is already divided by the tokens of the whole world, so a sum is all it takes, at any ep.
void reduce_gradients(AdapterState& adapter, MeshGroups& groups);

// L2 norm of the reduced gradients, each element counted once, summed in fp64; the same bits on all ranks. All ranks of
// the world must call this.
double global_gradient_norm(AdapterState& adapter, MeshGroups& groups);

// Brings the parts of the experts' values that other ranks updated. All ranks of the world must call this.
void gather_updated_values(AdapterState& adapter, MeshGroups& groups);

}  // namespace moraine
