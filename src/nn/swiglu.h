// SwiGLU (Shazeer 2020, https://arxiv.org/abs/2002.05202).
#pragma once

#include <ATen/ATen.h>

#include <limits>

namespace moraine {

// silu(gate)·up of x = [gate | up] along the last dim (width 2·I, gives I). The product is rounded once more after
// silu, as two operations in x's dtype are. With a finite `limit` gate is first clamped to at most limit, up to ±limit.
at::Tensor swiglu(const at::Tensor& gate_up, double limit = std::numeric_limits<double>::infinity());

// gpt-oss's: (up + 1) · gate·sigmoid(1.702·gate), where gate are the even columns of x and up the odd ones, clamped
// likewise; as transformers does, each operation's result is rounded to x's dtype.
at::Tensor clamped_swiglu(const at::Tensor& gate_up, double limit);

}  // namespace moraine
