// One rank reads for a group and passes on what belongs to the others: load.mode node and rank0.
#pragma once

#include <string>

#include "checkpoint/reader.h"
#include "config/choices.h"
#include "distributed/collectives/process_group.h"
#include "distributed/control/control.h"

namespace moraine {

struct Distribution {
  const std::vector<LoadPlan>& plans;  // of the group's ranks, by group rank: each of them computes all
  const CheckpointFiles* files;        // of group rank 0, which reads; null on the others
  ProcessGroup& group;                 // of two ranks or more
  Control& control;
  std::string name;  // names the group among the world's groups that load at the same time
  int num_threads = 1;
  BeforeRead before_read = {};
};

struct Distributed {
  Transport transport = Transport::kAuto;  // what was used
  uint64_t bytes_read = 0, bytes_received = 0;
};

// Fills `shards` of every rank of the group. Group rank 0 reads each byte that any of them needs once; nothing but
// weights travels, for every rank knows from the plans what comes. Beyond the shards a rank holds at most 64 MiB.
// Nobody waits in a collective for a read: a receiver polls until a chunk is there, without a limit of time. All ranks
// of the group must call this. Throws as CheckpointFiles::read, and a run error when shared memory is asked for that a
// rank cannot map.
Distributed distribute(const Distribution& distribution, Transport transport, const ShardSpans& shards);

}  // namespace moraine
