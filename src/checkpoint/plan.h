// The load plan: which bytes of which file land where, for one rank. Pure: nothing is opened or read here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/file_range.h"
#include "formats/checkpoint_index.h"
#include "parallel/placement.h"

namespace moraine {

// One run of bytes of a file and where it lands in a rank's shard of an image.
struct ReadRange {
  FileRange from;
  int image = 0;              // index into LoadPlan::shards
  uint64_t shard_offset = 0;  // bytes from the beginning of the shard
  std::string tensor;         // the checkpoint tensor (for reports)
};

struct LoadPlan {
  std::vector<ShardPlan> shards;  // one an image, in order
  std::vector<ReadRange> reads;   // ordered by file and offset
  uint64_t read_bytes = 0;        // sum of what `reads` take from the files
  uint64_t shard_bytes = 0;       // sum of the shards' sizes
};

// Plans what a rank that holds `shards` reads. The checkpoint must have passed check_checkpoint.
LoadPlan plan_reads(const std::vector<ShardPlan>& shards, const CheckpointIndex& index);

}  // namespace moraine
