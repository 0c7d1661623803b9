// Passing weights on through memory that the ranks of one machine share.
#pragma once

#include <memory>

#include "checkpoint/distribute.h"
#include "checkpoint/shared_ring.h"

namespace moraine {

// The group's ring on every rank, or nullptr on every rank when one of them cannot map it. All ranks of the group.
std::unique_ptr<SharedRing> share_ring(const Distribution& d);

Distributed distribute_by_memory(const Distribution& d, SharedRing& ring, const ShardSpans& shards);

}  // namespace moraine
