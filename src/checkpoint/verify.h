// Proof after load: what every rank holds is what the files hold, read again by another rank.
#pragma once

#include <string>

#include "checkpoint/load.h"
#include "checkpoint/reader.h"
#include "distributed/collectives/mesh_groups.h"

namespace moraine {

struct Verification {
  const Placement& placement;
  const CheckpointIndex& index;
  MeshGroups& groups;
  LoadMode mode = LoadMode::kDirect;
  Verify level = Verify::kFull;
  std::string part;  // names the placement's images among the model's, for the control store
  int num_threads = 1;
};

// Each rank hashes (XXH3-128) its pieces of tensors where they landed and publishes the hashes. Another rank works out
// from the placement alone what that rank must hold, hashes the same ranges of the files, and compares: its neighbour
// in mode direct, one rank per node in mode node, rank 0 in mode rank0. kPlacement compares the beginning of every
// tensor only. Besides, every expert is accounted for exactly once in each EP group. Returns the bytes that this rank
// read from files. Throws a run error that names tensor, rank and file. All ranks of the world must call this; when it
// returns, this rank has compared what it was to compare, and others may still be at it.
uint64_t verify_shards(const Verification& verification, const ShardSpans& shards);

}  // namespace moraine
