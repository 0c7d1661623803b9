// What several ranks read, merged, so that each byte of a file is read once for all of them. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/plan.h"

namespace moraine {

// A place in a rank's shards.
struct Target {
  int64_t member = 0;  // index of the rank among those that share the reads
  int image = 0;
  uint64_t shard_offset = 0;  // bytes from the beginning of the shard
};

struct SharedRead {
  FileRange from;
  std::vector<Target> targets;  // at least one, by member
  std::string tensor;
};

// The reads of `plans` (one a member) in file order, none larger than `max_nbytes` in memory. Ranks that hold the same
// bytes (replicas) share a read: ranges of two plans are equal or disjoint, for both cut an image at the same places
// (asserted).
std::vector<SharedRead> merge_plans(const std::vector<LoadPlan>& plans, uint64_t max_nbytes);

}  // namespace moraine
