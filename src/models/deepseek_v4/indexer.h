// CSA's indexer: which compressed entries a token attends to. Its choice passes no gradient on.
//
// Shape suffixes: T tokens, E entries, H index heads, D index width, Q tokens that have a choice, K chosen entries
// (index_topk).
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "models/deepseek_v4/compressor.h"

namespace moraine::deepseek_v4 {

// A token sees the entries of the windows that ended at it or before. The first one of a sequence that sees more than
// `index_topk`, and so has a choice; tokens before it attend to all that they see.
inline int64_t first_choosing_token(int64_t index_topk, int64_t rate) { return (index_topk + 1) * rate - 1; }
// Whether any sequence is that long.
bool any_choice(const std::vector<int64_t>& cu_seqlens, const Windows& windows, int64_t index_topk);

// Σ_h weight[q, h] · relu(query[q, h] · key[e]), in fp32: [Q, E].
at::Tensor index_scores(const at::Tensor& query_QHD, const at::Tensor& weight_QH, const at::Tensor& key_ED);

// Of each sequence the entries (int32 [Q, K], counted from the sequence's first) that its tokens from
// first_choosing_token on attend to: those with the highest scores among the ones they see. Undefined: none of its
// tokens has a choice. `weight_TH` has the score's constant factors in it.
std::vector<at::Tensor> choose_entries(const at::Tensor& query_THD, const at::Tensor& weight_TH,
                                       const at::Tensor& key_ED, const std::vector<int64_t>& cu_seqlens,
                                       const Windows& windows, int64_t index_topk);

}  // namespace moraine::deepseek_v4
