// Meta tensors as stand-ins for those of a run: code runs on them as it is, with their sizes and without data.
#pragma once

#include <memory>

#include "tensor/allocation_count.h"
#include "tensor/execution_device.h"

namespace moraine {

// While it lives, meta tensors stand for tensors on `device`, what they would take is counted, and they can do all that
// layers do: libtorch has some operators' meta kernels in Python alone, and their C++ stand-ins are here. Outputs have
// the sizes that `device` would give them; what depends on data is as large as it can be.
class PlannedTensors {
 public:
  explicit PlannedTensors(c10::Device device);
  ~PlannedTensors();

  AllocationCount& memory() { return memory_; }

 private:
  struct Kernels;
  PlannedDevice device_;
  AllocationCount memory_;
  std::unique_ptr<Kernels> kernels_;
};

}  // namespace moraine
