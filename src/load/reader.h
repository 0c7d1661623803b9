// Executes read ranges with worker threads, straight into the final buffers.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "load/plan.h"

namespace moraine {

// Fills `buffers[i]` (the bytes of plan.shards[i].shard, host memory) with what plan.reads name. Bytes that no range covers
// (padding) are left as they are. `num_threads` >= 1. Ranges that follow each other in the file and in the buffer are read
// at once. Throws the first error of any worker.
void execute_reads(const LoadPlan& plan, const CheckpointIndex& index, const std::vector<std::span<std::byte>>& buffers,
                   int num_threads);

// Reads the bytes of one range as they are to land (converted). Used to compare with what landed.
std::vector<std::byte> read_converted(const ReadRange& range, const CheckpointIndex& index);

}  // namespace moraine
