// Copies of the adapter that must stay equal: drift means that some rank trains another model without anyone noticing.
#pragma once

#include "adapter/adapter_state.h"
#include "distributed/collectives/mesh_groups.h"

namespace moraine {

// Compares hashes (XXH3-64) of every factor between the ranks that hold it: linear layers' over the world, experts'
// over the ranks with the same experts. Two small reductions, whatever the adapter's size. Throws a run error that
// names the first tensor that differs. All ranks of the world must call this.
void check_replicas(const AdapterState& adapter, MeshGroups& groups);

}  // namespace moraine
