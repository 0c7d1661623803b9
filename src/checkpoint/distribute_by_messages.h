// Passing weights on through the group's collectives, or by send and recv.
#pragma once

#include "checkpoint/distribute.h"

namespace moraine {

Distributed distribute_by_messages(const Distribution& d, Transport transport, const ShardSpans& shards);

}  // namespace moraine
