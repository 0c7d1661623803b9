// Fills the shards of this rank from a checkpoint, and proves that they hold the file's bytes.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "load/plan.h"

namespace moraine {

enum class Verify { kFull, kPlacement, kOff };
// load.verify's value, which the recipe has checked.
Verify parse_verify(const std::string& name);

struct LoadReport {
  uint64_t bytes_read = 0;         // without verification's own reads
  uint64_t bytes_verify_read = 0;
  double seconds = 0;              // reading
  double verify_seconds = 0;
  bool verified = false;           // every byte was compared
};

struct LoadedShards {
  std::vector<at::Tensor> bytes;  // uint8, one a shard of the plan
  LoadReport report;
};

// Executes `plan` onto `device` with `num_threads` readers, then verifies. Throws an input error for files that end early
// and a run error that names tensor and file when what landed differs from the file.
LoadedShards load_shards(const LoadPlan& plan, const CheckpointIndex& index, at::Device device, Verify verify,
                         int num_threads);

}  // namespace moraine
