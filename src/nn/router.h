// Which experts a token goes to.
//
// Shape suffixes: T tokens, E experts, K experts per token (top-k).
#pragma once

#include <ATen/ATen.h>

namespace moraine {

struct Routing {
  at::Tensor indices_TK;        // int64, rising expert id in each row
  at::Tensor weights_TK;        // fp32, differentiable through the router's input
  at::Tensor probabilities_TE;  // fp32, of all experts, before any renormalisation; differentiable likewise
};

// Softmax over all experts in fp32, then top-k; weights renormalised to sum 1 when norm_topk_prob (transformers'
// Qwen3MoeTopKRouter, which then rounds them to the dtype of the logits). `chosen_TK`: the indices that an earlier pass
// chose, to be used again; undefined = choose now.
Routing route_softmax_topk(const at::Tensor& logits_TE, int64_t num_experts_per_tok, bool norm_topk_prob,
                           const at::Tensor& chosen_TK);

// How often each expert was chosen, int64 [E], by the tokens that `real_T` (bool; undefined = all) marks.
at::Tensor count_choices(const at::Tensor& indices_TK, const at::Tensor& real_T, int64_t num_experts);
// Σ over those tokens of rows of x_TE. Differentiable.
at::Tensor sum_of_real_rows(const at::Tensor& x_TE, const at::Tensor& real_T);

}  // namespace moraine
