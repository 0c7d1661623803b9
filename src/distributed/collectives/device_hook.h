// Where tests put a device of their own in the place of a GPU.
#pragma once

#include <c10/core/Device.h>

#include <optional>

namespace moraine {

// From here on a run with dist.device: cuda computes on `device`, whatever GPUs are there, over Gloo. For tests alone,
// before the first run.
void set_device_hook(c10::Device device);
std::optional<c10::Device> hooked_device();

}  // namespace moraine
