// The load plan: which bytes of which file land where, for one rank. Pure: nothing is opened or read here.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "formats/checkpoint_index.h"
#include "parallel/layer_image.h"

namespace moraine {

// One run of bytes of a file and where it lands in this rank's shard of an image.
struct ReadRange {
  int file = 0;               // index into CheckpointIndex::files
  uint64_t file_offset = 0;   // bytes from the beginning of the file
  uint64_t file_nbytes = 0;
  DType stored = DType::kF32;
  int image = 0;              // index into LoadPlan::images
  uint64_t shard_offset = 0;  // bytes from the beginning of the shard
  uint64_t shard_nbytes = 0;
  DType wanted = DType::kF32;  // == stored unless the elements are converted while they are read
  int slot = 0;                // index into the image's slots (for reports)
  std::string tensor;          // the checkpoint tensor (for reports)
};

// What one rank holds of one image.
struct ShardPlan {
  const LayerImage* image = nullptr;
  ByteRange shard;
};

struct LoadPlan {
  std::vector<ShardPlan> shards;  // one an image, in order
  std::vector<ReadRange> reads;   // ordered by file and offset
  uint64_t read_bytes = 0;        // sum of file_nbytes
  uint64_t shard_bytes = 0;       // sum of the shards' sizes
};

// Plans what a rank that holds `shards` reads. Throws an input error that names tensor and file: a tensor that the
// checkpoint lacks, a shape or a dtype that the config does not imply.
LoadPlan plan_reads(const std::vector<ShardPlan>& shards, const CheckpointIndex& index);

// Throws an input error that names the first tensor of the checkpoint that no image uses and that `is_known_extra` does
// not claim. `specs` are all images of the model.
void check_no_unexpected(const std::vector<ImageSpec>& specs, const CheckpointIndex& index,
                         const std::function<bool(const std::string& tensor)>& is_known_extra);

}  // namespace moraine
