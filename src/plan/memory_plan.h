// The memory of a rank, from the first byte read to the adapter on disk.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "plan/planned_run.h"

namespace moraine {

// Something that a run does, and what it holds meanwhile besides what it holds all the time. Bytes.
struct MemoryStage {
  std::string name;
  double bytes = 0;
};

// Bytes: of the process on the CPU, of the GPU's memory on CUDA. All but `base` are this rank's own doing.
struct RankMemory {
  uint64_t resident_base = 0;       // shards, whole images where a group is a single rank
  uint64_t offloaded_base = 0;      // images in the host's memory, besides these on CUDA, among them on the CPU
  uint64_t gather_buffers = 0;      // two a lane that has sharded images, one where it has a single one (WeightStore)
  uint64_t adapter = 0;             // values and gradients
  uint64_t optimizer = 0;           // AdamW's two moments, of the elements that this rank updates
  uint64_t activations = 0;         // the fullest of `stages`, with compiled kernels and what malloc cannot give back
  std::vector<MemoryStage> stages;  // of training
  uint64_t kernels = 0;             // within `activations`
  uint64_t loading = 0;             // shards and staging, before buffers, adapter and activations are there
  uint64_t base = 0;                // libtorch and process groups; on CUDA its context and NCCL's buffers
  uint64_t communicators = 0;       // NCCL's, within `base`
  // On CUDA, of the host's memory: what is offloaded, each image in a power of two (libtorch's allocator of pinned
  // memory), and the image that is read meanwhile.
  uint64_t host = 0;

  uint64_t training() const { return resident_base + gather_buffers + adapter + optimizer + activations; }
  uint64_t peak() const { return base + std::max(training(), loading); }
};

// Of `rank`; see plan_pass for `imbalance`. Ranks of one memory_class have the same.
RankMemory plan_memory(const PlannedModel& model, const PlannedRun& run, int64_t rank, double imbalance = 1.0);

// A snapshot on disk: the adapter's fp32 values and two moments. save.keep of them are kept, and one more while it is
// written.
uint64_t snapshot_bytes(const PlannedModel& model, const PlannedRun& run);

// What plan_memory depends on: the number of experts, the tokens of the rank and of its EP group, and whether it
// writes.
std::vector<int64_t> memory_class(const PlannedModel& model, const PlannedRun& run, int64_t rank);

// The largest peak of any rank: rank 0's. It holds as many experts as any other, its rows are dealt first, and it
// saves.
uint64_t largest_peak(const PlannedModel& model, const PlannedRun& run);

}  // namespace moraine
