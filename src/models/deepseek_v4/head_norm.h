// Root-mean-square norm without weights, of each query head.
#pragma once

#include <ATen/ATen.h>

namespace moraine::deepseek_v4 {

// x / rms(x) over the last dim of [T, N, D], in fp32, rounded once. Differentiable; keeps its input and a number a
// head.
at::Tensor head_norm(const at::Tensor& x_TND, double eps);

}  // namespace moraine::deepseek_v4
