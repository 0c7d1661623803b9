#include "checkpoint/distribute.h"

#include <fmt/format.h>

#include "base/error.h"
#include "checkpoint/distribute_by_memory.h"
#include "checkpoint/distribute_by_messages.h"

namespace moraine {

Distributed distribute(const Distribution& d, Transport transport, const ShardSpans& shards) {
  if (transport == Transport::kAuto || transport == Transport::kSharedMemory) {
    if (const auto ring = share_ring(d)) return distribute_by_memory(d, *ring, shards);
    if (transport == Transport::kSharedMemory) {
      throw run_error("load.node_transport", "shm: not all ranks of " + d.name + " can map the memory of the first",
                      "use auto, collective or p2p");
    }
    transport = Transport::kCollective;
  }
  return distribute_by_messages(d, transport, shards);
}

}  // namespace moraine
