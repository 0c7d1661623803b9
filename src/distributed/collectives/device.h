// The device a rank computes on.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

#include "config/choices.h"
#include "distributed/control/launch.h"

namespace moraine {

// How many CUDA devices this process sees; 0 in a build without CUDA.
int64_t visible_cuda_devices();

// Auto is CUDA where `visible` devices are any, else the CPU. The ranks of a node take its devices in order; a rank
// that sees only one takes that, as Slurm binds them. `may_share`: several ranks may use one device (Gloo can, NCCL
// cannot). Throws an input error where there is no device for this rank.
c10::Device choose_device(DeviceChoice choice, int64_t visible, const WorldInfo& world, bool may_share);

// Makes `device` the calling thread's current one, and its arithmetic as exact as bf16 and fp32 are: no TF32, no sums
// in bf16. Call before the first group and the first tensor on it.
void use_device(c10::Device device);

// The most bytes torch has held on a CUDA device so far; of the CPU, the process's peak resident memory.
uint64_t peak_memory_bytes(c10::Device device);

}  // namespace moraine
