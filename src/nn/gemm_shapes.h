// Which row counts matrix products should have.
#pragma once

#include <ATen/ATen.h>

#include "tensor/execution_device.h"

namespace moraine {

// On the CPU sequences and the rows of an expert are filled up to a multiple of this; 1 elsewhere. Two reasons:
// - BLAS takes other kernels for products of very few rows (measured: below 4), which round otherwise. Filled up, a
// row's product
//   has the same bits whatever rows it shares the call with, and so on every mesh.
// - oneDNN, which multiplies bf16 matrices, compiles a kernel for every new shape (about half a millisecond) and keeps
// a limited
//   number of them; sequences and experts' rows have a new length nearly every time.
inline int64_t gemm_row_alignment(at::Device device, at::ScalarType dtype) {
  return !execution_device(device).is_cpu() ? 1 : dtype == at::kBFloat16 ? 16 : 8;
}

}  // namespace moraine
