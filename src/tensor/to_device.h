// Whole numbers that the host has worked out, where tensors are.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace moraine {

// values as int64 [values.size()] on `device`. On CUDA the copy is queued behind what the current stream does: nobody
// waits.
at::Tensor to_device(const std::vector<int64_t>& values, at::Device device);

}  // namespace moraine
