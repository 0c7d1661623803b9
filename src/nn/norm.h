// Root-mean-square layer norm of frozen weights (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467).
#pragma once

#include <ATen/ATen.h>

namespace moraine {

// Over the last dim: normalised in fp32, rounded to x's dtype, then multiplied by weight [D] (as transformers' Qwen3
// and DeepSeek norms do). Differentiable in x only.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight_D, double eps);

// The same, multiplied in fp32 and rounded once (transformers' gpt-oss norms).
at::Tensor rms_norm_rounded_once(const at::Tensor& x, const at::Tensor& weight_D, double eps);

// The same around zero: multiplied by 1 + weight in fp32 and rounded once (transformers' Qwen3.5 norms).
at::Tensor rms_norm_zero_centered(const at::Tensor& x, const at::Tensor& weight_D, double eps);

// rms_norm(x)·silu(gate), the second product in fp32, rounded to x's dtype (transformers' Qwen3.5 gated norm). gate has
// x's shape. Differentiable in x and gate.
at::Tensor gated_rms_norm(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& weight_D, double eps);

}  // namespace moraine
