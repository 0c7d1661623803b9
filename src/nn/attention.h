// Causal self-attention over token-major, padding-free batches.
//
// Shape suffixes: T tokens of all sequences, S tokens seen by the cache, N query heads, K key/value heads, D head
// width.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <vector>

namespace moraine {

// The keys and values of one sequence that were computed before; grows as tokens are generated.
struct KvCache {
  at::Tensor k_SKD, v_SKD;  // undefined = empty
};

struct AttentionOptions {
  int64_t window = 0;  // a token sees so many, itself the last of them; 0 = all before it
  // For each head the logit of a column that joins the softmax and is dropped after it (Xiao et al. 2023,
  // https://arxiv.org/abs/2309.17453), frozen; undefined = none.
  at::Tensor sinks_N = {};
  std::optional<double> scale = {};  // of the scores; 1/√D where none is given. Neither with a window nor with sinks.
};

// softmax(q·kᵀ·scale)·v within each sequence, causal; sequence s is the rows [cu_seqlens[s], cu_seqlens[s+1]). N is a
// multiple of K (grouped-query attention, Ainslie et al. 2023). v's heads may be narrower than D unless there is a
// window or sinks. With a cache (one sequence only, no autograd) q attends to the cached tokens too, and k and v are
// appended. Returns [T, N, width of v's heads]. A window costs T · window.
at::Tensor causal_attention(const at::Tensor& q_TND, const at::Tensor& k_TKD, const at::Tensor& v_TKD,
                            const std::vector<int64_t>& cu_seqlens, KvCache* cache,
                            const AttentionOptions& options = {});

}  // namespace moraine
