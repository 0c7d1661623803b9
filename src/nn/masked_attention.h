// Attention within a sliding window and with a sink for each head, which libtorch's operators of attention do not have.
//
// Shape suffixes: T queries of one sequence, S keys, N query heads, K key/value heads, D head width.
#pragma once

#include <ATen/ATen.h>

namespace moraine {

// Of one sequence: q [T, N, D], k and v [S, K, D] with S >= T; the queries are the last T of the S positions. `window`
// and `sinks_N` as in AttentionOptions. Differentiable in q, k and v. Scores are made for blocks of queries, at no time
// for all, and again in the backward pass.
at::Tensor masked_attention(const at::Tensor& q_TND, const at::Tensor& k_SKD, const at::Tensor& v_SKD, int64_t window,
                            const at::Tensor& sinks_N);

// Whether the kernel that attention takes for q on its device is flash attention, which reads each head of k and v for
// all its queries: GPUs have it for 16 bits and heads of up to 256.
bool has_flash_attention(const at::Tensor& q);

}  // namespace moraine
