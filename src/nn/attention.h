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

// softmax(q·kᵀ·scale)·v within each sequence, causal; sequence s is the rows [cu_seqlens[s], cu_seqlens[s+1]). N is a
// multiple of K (grouped-query attention, Ainslie et al. 2023). v's heads may be narrower than D. `scale`: 1/√D where
// none is given. With a cache (one sequence only, no autograd) q attends to the cached tokens too, and k and v are
// appended. Returns [T, N, width of v's heads].
at::Tensor causal_attention(const at::Tensor& q_TND, const at::Tensor& k_TKD, const at::Tensor& v_TKD,
                            const std::vector<int64_t>& cu_seqlens, KvCache* cache, std::optional<double> scale = {});

}  // namespace moraine
