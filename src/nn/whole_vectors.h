// Elementwise functions whose last elements are like the others.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "tensor/execution_device.h"

namespace moraine {

// function(x), elementwise, of x [T, …]. libtorch's CPU kernels take vectors of elements and at the end of a tensor
// single ones, whose exp and log differ in the last bit; so where there are few elements a row, a row's bits would
// depend on how many rows there are. Here rows are filled up first.
template <typename Function>
at::Tensor on_whole_vectors(const at::Tensor& x, const Function& function) {
  const int64_t rows = x.size(0), filled = (rows + 63) / 64 * 64;
  if (!execution_device(x.device()).is_cpu() || filled == rows) return function(x);
  std::vector<int64_t> padding(2 * x.dim(), 0);
  padding.back() = filled - rows;
  return function(at::constant_pad_nd(x, padding)).narrow(0, 0, rows);
}

}  // namespace moraine
