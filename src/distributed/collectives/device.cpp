#include "distributed/collectives/device.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <fmt/format.h>

#include "base/error.h"
#include "base/process.h"

namespace moraine {

int64_t visible_cuda_devices() {
  return at::accelerator::getAccelerator() == at::kCUDA ? at::accelerator::deviceCount() : 0;
}

c10::Device choose_device(DeviceChoice choice, int64_t visible, const WorldInfo& world, bool may_share) {
  if (choice == DeviceChoice::kCpu || visible == 0) {
    if (choice == DeviceChoice::kCuda) {
      throw input_error(
          "dist.device", "no CUDA device is here",
          "use cpu, or a build with MORAINE_CUDA on a machine whose GPU CUDA_VISIBLE_DEVICES does not hide");
    }
    return at::kCPU;
  }
  // Ranks of `--ranks` see the same devices; other launchers may give each rank one of its own.
  const bool sees_only_its_own = visible == 1 && world.source != LaunchSource::kLocal;
  int64_t index = sees_only_its_own ? 0 : world.local_rank;
  if (index >= visible) {
    if (!may_share) {
      throw input_error("dist.device",
                        fmt::format("rank {} is number {} on its machine, which shows {} CUDA device{}", world.rank,
                                    world.local_rank + 1, visible, visible == 1 ? "" : "s"),
                        "start one rank per device (CUDA_VISIBLE_DEVICES), or share devices with dist.backend: gloo");
    }
    index %= visible;
  }
  return {at::kCUDA, static_cast<c10::DeviceIndex>(index)};
}

void use_device(c10::Device device) {
  if (!device.is_cuda()) return;
  at::accelerator::setDeviceIndex(device.index());
  at::Context& context = at::globalContext();
  context.setAllowTF32CuBLAS(false);
  context.setAllowBF16ReductionCuBLAS(false);
  context.setSDPUseCuDNN(false);  // it builds a graph for every new length
}

uint64_t peak_memory_bytes(c10::Device device) {
  if (!device.is_cuda()) return peak_resident_bytes();
  return at::accelerator::getDeviceStats(device.index()).reserved_bytes[0].peak;
}

}  // namespace moraine
