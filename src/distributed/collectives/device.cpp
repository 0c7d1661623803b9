#include "distributed/collectives/device.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/AllocatorConfig.h>
#include <fmt/format.h>

#include <cstdlib>
#ifdef USE_C10D_NCCL
#include <cuda_runtime_api.h>
#endif

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "base/process.h"
#include "base/text.h"
#include "distributed/collectives/device_hook.h"

#ifdef USE_C10D_NCCL
// Of ATen/cuda/CUDAContextLight.h, which wants headers of cuBLAS and cuSPARSE that nothing else here needs.
namespace at::cuda {
cudaDeviceProp* getDeviceProperties(c10::DeviceIndex device);
}
#endif

namespace moraine {
namespace {

std::optional<c10::Device>& device_of_tests() {
  static std::optional<c10::Device> device;
  return device;
}

}  // namespace

void set_device_hook(c10::Device device) { device_of_tests() = device; }
std::optional<c10::Device> hooked_device() { return device_of_tests(); }

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

std::string check_compute_capability(int major, int minor) {
  if (major < 8) {
    throw input_error("dist.device",
                      fmt::format("the GPU's compute capability is {}.{}, and bf16 needs 8.0", major, minor),
                      "use a GPU of 8.0 or more (A100, H100), or dist.device: cpu");
  }
  if (major >= 9) return "";
  return fmt::format("the GPU's compute capability is {}.{}: products of experts are slow before 9.0", major, minor);
}

namespace {

#ifdef USE_C10D_NCCL
std::string check_gpu(c10::Device device) {
  const cudaDeviceProp* properties = at::cuda::getDeviceProperties(device.index());
  return check_compute_capability(properties->major, properties->minor);
}
#else
std::string check_gpu(c10::Device) { return ""; }  // without CUDA there is none
#endif

void check_cublas_workspace() {
  const char* config = std::getenv("CUBLAS_WORKSPACE_CONFIG");  // main sets it
  const std::string value = config ? config : "";
  if (value == ":4096:8" || value == ":16:8") return;
  throw input_error("CUBLAS_WORKSPACE_CONFIG",
                    fmt::format("is {}, with which train.deterministic cannot be", quote_text(value)),
                    "unset it, or set :4096:8 or :16:8");
}

}  // namespace

std::string use_device(c10::Device device, bool deterministic) {
  if (deterministic && device.is_cpu())
    log_info("train.deterministic: nothing to do, the CPU gives the same bits each time");
  if (!device.is_cuda()) return "";
  // Lengths of micro-batches differ, and blocks of fixed segments would not be used again for others.
  if (!std::getenv("PYTORCH_ALLOC_CONF") && !std::getenv("PYTORCH_CUDA_ALLOC_CONF"))
    c10::CachingAllocator::setAllocatorSettings("expandable_segments:True");
  const std::string warning = check_gpu(device);
  at::accelerator::setDeviceIndex(device.index());
  at::Context& context = at::globalContext();
  context.setAllowTF32CuBLAS(false);
  context.setAllowBF16ReductionCuBLAS(false);
  context.setSDPUseCuDNN(false);  // it builds a graph for every new length
  if (deterministic) {
    check_cublas_workspace();
    context.setDeterministicAlgorithms(true, /*warn_only=*/false);
    context.setDeterministicFillUninitializedMemory(false);  // nothing reads such memory
  }
  return warning;
}

uint64_t peak_memory_bytes(c10::Device device) {
  return device.is_cuda() ? device_peak(device).reserved : peak_resident_bytes();
}

DevicePeak device_peak(c10::Device device) {
  const auto stats = at::accelerator::getDeviceStats(device.index());
  return {static_cast<uint64_t>(stats.allocated_bytes[0].peak), static_cast<uint64_t>(stats.reserved_bytes[0].peak)};
}

std::string in_words(const DevicePeak& peak) {
  return fmt::format("peak memory on the device: {} used by tensors, {} reserved", format_bytes(peak.allocated),
                     format_bytes(peak.reserved));
}

uint64_t available_device_bytes(c10::Device device) {
  const auto held = at::accelerator::getDeviceStats(device.index()).reserved_bytes[0].current;
  return at::accelerator::getMemoryInfo(device.index()).first + static_cast<uint64_t>(held);
}

}  // namespace moraine
