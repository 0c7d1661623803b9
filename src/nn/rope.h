// Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864), half-split layout.
//
// Shape suffixes: T tokens, N heads, D head width.
#pragma once

#include <ATen/ATen.h>

namespace moraine {

// Rounded to the activation dtype, as transformers does.
struct RopeTable {
  at::Tensor cos_TD;
  at::Tensor sin_TD;
};

// Computed from the configuration, never loaded: the table of `position_ids_T` (int64), each of D/2 frequencies
// theta^(-2i/D) twice, calculated in fp32. D even.
RopeTable make_rope_table(const at::Tensor& position_ids_T, int64_t head_dim, double theta, at::ScalarType dtype);

// x·cos + rotate_half(x)·sin for each head. With a table narrower than the heads only their first dims turn, half-split
// among themselves (partial RoPE).
at::Tensor apply_rope(const at::Tensor& x_TND, const RopeTable& table);

}  // namespace moraine
