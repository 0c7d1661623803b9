#include "tensor/to_device.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>

#include <algorithm>

namespace moraine {

at::Tensor to_device(const std::vector<int64_t>& values, at::Device device) {
  const auto options =
      at::TensorOptions().dtype(at::kLong).pinned_memory(at::accelerator::isAccelerator(device.type()));
  const at::Tensor host = at::empty({static_cast<int64_t>(values.size())}, options);
  std::copy(values.begin(), values.end(), host.mutable_data_ptr<int64_t>());
  return host.to(device, /*non_blocking=*/true);
}

}  // namespace moraine
