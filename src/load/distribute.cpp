#include "load/distribute.h"

#include <fmt/format.h>

#include "base/error.h"
#include "load/distribute_by_messages.h"
#include "load/distribute_by_memory.h"

namespace moraine {

Transport parse_transport(const std::string& name) {
  for (Transport t : {Transport::kCollective, Transport::kPointToPoint, Transport::kSharedMemory})
    if (name == transport_name(t)) return t;
  return Transport::kAuto;
}

const char* transport_name(Transport transport) {
  switch (transport) {
    case Transport::kAuto: return "auto";
    case Transport::kCollective: return "collective";
    case Transport::kPointToPoint: return "p2p";
    case Transport::kSharedMemory: return "shm";
  }
  MORAINE_ASSERT(false, "unknown transport");
}

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
