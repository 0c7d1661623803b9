// DeepSeek-V4's routers: scores √softplus(logits), experts by score and correction bias or by a table of token ids.
//
// Shape suffixes: T tokens, E experts, K experts per token, V vocabulary.
#pragma once

#include <ATen/ATen.h>

#include "nn/router.h"

namespace moraine::deepseek_v4 {

// The experts with the highest score + bias, in rising order; the bias (fp32) keeps experts evenly used and weighs
// nothing.
at::Tensor choose_by_score(const at::Tensor& logits_TE, const at::Tensor& bias_E, int64_t num_experts_per_tok);
// Those that the table names for each token id, in rising order.
at::Tensor choose_by_token(const at::Tensor& input_ids_T, const at::Tensor& tid2eid_VK);

// The chosen experts' scores, divided by their sum, times `factor`; calculated in fp32, in the logits' dtype.
// Differentiable.
at::Tensor routing_weights(const at::Tensor& logits_TE, const at::Tensor& chosen_TK, double factor);

}  // namespace moraine::deepseek_v4
