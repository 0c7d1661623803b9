// Fills the shards of all ranks from a checkpoint, and proves that they hold the files' bytes.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <string>
#include <vector>

#include "checkpoint/distribute.h"
#include "checkpoint/plan.h"
#include "config/choices.h"
#include "distributed/collectives/mesh_groups.h"

namespace moraine {

// For tests of what may go wrong.
struct LoadHooks {
  BeforeRead before_read = {};
  std::function<void(const ShardSpans&)> after_reading = {};  // before verification
};

struct LoadSettings {
  LoadMode mode = LoadMode::kDirect;
  Transport transport = Transport::kAuto;  // within a node, in mode node
  Verify verify = Verify::kFull;
  int num_threads = 1;
  uint64_t resident_bytes = 0;  // see WeightStore
  at::Device device = at::kCPU;
  Offload offload = Offload::kNone;  // mesh.offload
  // Shards that are read, passed on and proven together, in bytes, at least one image's; 0: those that stay on the host
  // all at once, those of another device 256 MiB, which bounds the host memory that loading takes.
  uint64_t staging_bytes = 0;
  LoadHooks hooks = {};
};

// Of this rank.
struct LoadReport {
  LoadMode mode = LoadMode::kDirect;
  Transport transport = Transport::kAuto;  // kAuto: nothing had to travel
  uint64_t bytes_read = 0;                 // from files, without verification's own reads
  uint64_t bytes_verify_read = 0;
  uint64_t bytes_received = 0;  // from other ranks
  uint64_t shard_bytes = 0;     // held
  double seconds = 0;           // until this rank's shards were filled
  double verify_seconds = 0;
  bool verified = false;        // every byte was compared
  uint64_t peak_rss_bytes = 0;  // when loading ended
};

struct LoadedShards {
  std::vector<at::Tensor> bytes;  // uint8, this rank's shard of each image of the placement
  LoadReport report;
};

// `on_host`, if it is not empty: by image, whether its shard stays in the host's memory (pinned) though settings.device
// is another.
//
// Loads and verifies; all ranks of the world must call this. The checkpoint must have passed check_checkpoint; in mode
// rank0 only rank 0 opens its files. What is proven of a device's shards is what the device holds, read back. No rank
// holds more than its shards and bounded staging, and none waits in a
// collective for another one's reads. Throws input errors for files that end early, run errors that name tensor, rank
// and file.
LoadedShards load_shards(const Placement& placement, const CheckpointIndex& index, MeshGroups& groups,
                         const LoadSettings& settings, const std::vector<bool>& on_host = {});

}  // namespace moraine
