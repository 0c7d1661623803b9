// Makes c10d backends: Gloo for tensors in host memory, NCCL for CUDA tensors where torch has it (Gloo takes those too,
// slowly).
#pragma once

#include <c10/core/Device.h>
#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "config/choices.h"
#include "distributed/control/launch.h"

namespace moraine {

enum class BackendKind { kGloo, kNccl };

// Auto is NCCL for a CUDA device, else Gloo. Throws an input error when this build or device cannot do what was asked
// for.
BackendKind choose_backend(BackendChoice choice, c10::Device device);

// Makes the backends of one process; keeps what they share (Gloo's network device).
class BackendFactory {
 public:
  // `device`: where NCCL's tensors lie.
  BackendFactory(const WorldInfo& world, BackendKind kind, std::chrono::milliseconds timeout,
                 c10::Device device = c10::kCPU);
  ~BackendFactory();

  // All groups of this process have been made: from here on nobody can connect to Gloo's port, and no group of Gloo's
  // can be made. Gloo keeps every connection there whose first bytes it does not expect, a descriptor each, for good.
  void stop_listening();

  BackendKind kind() const { return kind_; }  // of tensors on the device
  // All members of the group must call this. `store` is the group's own. NCCL connects at once.
  c10::intrusive_ptr<c10d::Backend> make(BackendKind kind, c10::intrusive_ptr<c10d::Store> store, int rank, int size,
                                         const std::string& name);

 private:
  struct GlooDevice;
  BackendKind kind_;
  std::chrono::milliseconds timeout_;
  c10::Device device_;
  std::unique_ptr<GlooDevice> gloo_;
};

}  // namespace moraine
