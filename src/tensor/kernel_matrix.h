// Tensors as the kernels of src/kernels see them.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "base/error.h"
#include "kernels/matrix.h"
#include "tensor/execution_device.h"

namespace moraine {

inline bool has_kernel_dtype(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
}

// Whether src/kernels computes with x: on the CPU (or planned for it), in fp32 or bf16.
inline bool runs_in_kernels(const at::Tensor& x) {
  return execution_device(x.device()).is_cpu() && has_kernel_dtype(x);
}

inline kernels::Number kernel_number(const at::Tensor& x) {
  MORAINE_ASSERT(has_kernel_dtype(x), "kernels compute in fp32 and bf16");
  return x.scalar_type() == at::kFloat ? kernels::Number::kF32 : kernels::Number::kBF16;
}

// Of a matrix whose rows' elements lie side by side.
inline kernels::Matrix kernel_matrix(const at::Tensor& x) {
  MORAINE_ASSERT(x.dim() == 2 && (x.stride(1) == 1 || x.size(1) <= 1), "a matrix lies row by row");
  return {x.const_data_ptr(), kernel_number(x), x.stride(0)};
}
inline kernels::MutableMatrix mutable_kernel_matrix(const at::Tensor& x) {
  MORAINE_ASSERT(x.dim() == 2 && (x.stride(1) == 1 || x.size(1) <= 1), "a matrix lies row by row");
  return {x.mutable_data_ptr(), kernel_number(x), x.stride(0)};
}

// [..., D] as rows of D elements; a copy where they do not lie evenly.
inline at::Tensor as_rows(const at::Tensor& x) {
  const at::Tensor rows = x.dim() == 1 ? x.unsqueeze(0) : x.flatten(0, -2);
  return rows.stride(1) == 1 || rows.size(1) <= 1 ? rows : rows.contiguous();
}

// Calls body(first row, rows) for stretches of rows, side by side; not for tensors without data.
template <typename Body>
void for_row_stretches(const at::Tensor& x_RD, const Body& body) {
  if (x_RD.is_meta()) return;
  constexpr int64_t kElementsAtOnce = 16384;
  const int64_t grain = std::max<int64_t>(1, kElementsAtOnce / std::max<int64_t>(1, x_RD.size(1)));
  at::parallel_for(0, x_RD.size(0), grain, [&](int64_t begin, int64_t end) { body(begin, end - begin); });
}

}  // namespace moraine
