// Which row counts matrix products should have.
#pragma once

#include <ATen/ATen.h>

namespace moraine {

// oneDNN, which multiplies bf16 matrices on the CPU, compiles a kernel for every new shape (about half a millisecond) and
// keeps a limited number of them. Sequences and the rows of an expert have a new length nearly every time, so on the CPU
// in bf16 they are filled up to a multiple of this; 1 elsewhere.
inline int64_t gemm_row_alignment(at::Device device, at::ScalarType dtype) {
  return device.is_cpu() && dtype == at::kBFloat16 ? 16 : 1;
}

}  // namespace moraine
