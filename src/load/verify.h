// Proof after load: what landed is what the files hold.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "load/load.h"

namespace moraine {

// Hashes (XXH3-128) every range where it landed and compares with the file's bytes, read again. kPlacement checks the
// first range of every tensor only. Returns the bytes it read. Throws a run error that names tensor and file.
uint64_t verify_shards(const LoadPlan& plan, const CheckpointIndex& index,
                       const std::vector<std::span<std::byte>>& shards, Verify verify, int num_threads);

}  // namespace moraine
