// Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864), half-split layout, with YaRN for long
// contexts (Peng et al. 2023, https://arxiv.org/abs/2309.00071).
//
// Shape suffixes: T tokens, N heads, D head width.
#pragma once

#include <ATen/ATen.h>

namespace moraine {

// What config.json says of the frequencies.
struct RopeSpec {
  double rope_theta = 10000;
  int64_t dim = 0;    // the dims of a head that turn
  bool yarn = false;  // the fields below count only then
  double factor = 1, beta_fast = 32, beta_slow = 1;
  double attention_factor = 1;  // on cos and sin
  double score_factor = 1;      // on attention's scores where a family has it: the square of mscale_all_dim's mscale
  int64_t original_max_position_embeddings = 0;
  bool truncate = true;  // whether the pairs where blending begins and ends are whole numbers

  friend bool operator==(const RopeSpec&, const RopeSpec&) = default;
};

// fp32 [dim / 2]: theta^(-2i/dim), with YaRN slowed down by `factor` where a pair turns less than beta_slow times in
// the original context, kept where it turns more than beta_fast times, blended in between.
at::Tensor rope_frequencies(const RopeSpec& rope, at::Device device);

// Rounded to the activation dtype, as transformers does.
struct RopeTable {
  at::Tensor cos_TD;
  at::Tensor sin_TD;
};

// Computed from the configuration, never loaded: the table of `position_ids_T` (int64), D = rope.dim, each frequency
// twice, calculated in fp32.
RopeTable make_rope_table(const at::Tensor& position_ids_T, const RopeSpec& rope, at::ScalarType dtype);

// x·cos + rotate_half(x)·sin for each head. With a table narrower than the heads only their first dims turn, half-split
// among themselves (partial RoPE).
at::Tensor apply_rope(const at::Tensor& x_TND, const RopeTable& table);

// For models that turn adjacent pairs: of the first `dim` dims of each head the even ones, then the odd ones, then the
// other dims. Where queries and keys are both put into this order their products stay what they are.
at::Tensor pairs_to_halves(const at::Tensor& x_TND, int64_t dim);

}  // namespace moraine
