// SwiGLU (Shazeer 2020, https://arxiv.org/abs/2002.05202).
#pragma once

#include <ATen/ATen.h>

namespace moraine {

// silu(gate)·up of x = [gate | up] along the last dim (width 2·I, gives I). The product is rounded once more after silu,
// as two operations in x's dtype are.
at::Tensor swiglu(const at::Tensor& gate_up);

}  // namespace moraine
