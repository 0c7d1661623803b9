// Each rank reads what it holds: ranges of a plan, with worker threads, straight into the final buffers.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "checkpoint/checkpoint_files.h"
#include "checkpoint/plan.h"

namespace moraine {

// The bytes of plan.shards[i].shard, one span an image, in host memory.
using ShardSpans = std::vector<std::span<std::byte>>;

// Called by the reading threads before each read, for tests of slow or failing storage.
using BeforeRead = std::function<void()>;

// Fills `shards` with what plan.reads name. Bytes that no range covers (padding) are left as they are. `num_threads`
// >= 1. Ranges that follow each other in the file and in memory are read at once. Throws the first error of any worker.
void execute_reads(const LoadPlan& plan, const CheckpointFiles& files, const ShardSpans& shards, int num_threads,
                   const BeforeRead& before_read = {});

}  // namespace moraine
