// Where the operations on a tensor run, for code that does one thing on the CPU and another on CUDA.
#pragma once

#include <c10/core/Device.h>

namespace moraine {

// `device` itself; of meta tensors (sizes without data) the device that they stand for: that of the PlannedDevice.
c10::Device execution_device(c10::Device device);

// For as long as it lives, meta tensors of this thread stand for tensors on `device`.
class PlannedDevice {
 public:
  explicit PlannedDevice(c10::Device device);
  ~PlannedDevice();
  PlannedDevice(const PlannedDevice&) = delete;
  PlannedDevice& operator=(const PlannedDevice&) = delete;

 private:
  c10::Device before_;
};

}  // namespace moraine
