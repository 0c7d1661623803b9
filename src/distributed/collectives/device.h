// The device a rank computes on.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>

#include "config/choices.h"
#include "distributed/control/launch.h"

namespace moraine {

// How many CUDA devices this process sees; 0 in a build without CUDA.
int64_t visible_cuda_devices();

// Auto is CUDA where `visible` devices are any, else the CPU. The ranks of a node take its devices in order; a rank
// that sees only one takes that, as Slurm binds them. `may_share`: several ranks may use one device (Gloo can, NCCL
// cannot). Throws an input error where there is no device for this rank.
c10::Device choose_device(DeviceChoice choice, int64_t visible, const WorldInfo& world, bool may_share);

// Refuses GPUs before compute capability 8.0, which have no bf16 arithmetic. Returns what to tell the user of one that
// works slowly, empty for those from 9.0 on.
std::string check_compute_capability(int major, int minor);

// Makes `device` the calling thread's current one, and its arithmetic as exact as bf16 and fp32 are: no TF32, no sums
// in bf16. `deterministic`: of CUDA's kernels only those that give the same bits each time; an operator without one
// throws. Memory of CUDA comes in segments that grow, unless the environment says how (PYTORCH_ALLOC_CONF). Call before
// the first group and the first tensor on it. Returns check_compute_capability's words. Throws an input error for a GPU
// that cannot do it.
std::string use_device(c10::Device device, bool deterministic);

// The most bytes torch has held on a CUDA device so far; of the CPU, the process's peak resident memory.
uint64_t peak_memory_bytes(c10::Device device);

// Memory of a CUDA device: at most used by tensors, and held by torch's allocator for them, so far.
struct DevicePeak {
  uint64_t allocated = 0, reserved = 0;
};
DevicePeak device_peak(c10::Device device);
std::string in_words(const DevicePeak& peak);

// Bytes that this process may have of a CUDA device: what is free, and what torch holds already.
uint64_t available_device_bytes(c10::Device device);

}  // namespace moraine
