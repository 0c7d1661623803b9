// Next-token cross-entropy without ever holding the whole batch's logits.
//
// Shape suffixes: T tokens, D hidden, V vocabulary.
#pragma once

#include <ATen/ATen.h>

#include "nn/lora.h"

namespace moraine {

struct LossResult {
  double loss_sum = 0;  // over the trained tokens, natural logarithm
  int64_t trained_tokens = 0;
  at::Tensor token_loss_T;    // fp32; 0 where the target is -100
  at::Tensor grad_hidden_TD;  // d (loss_scale · loss_sum) / d hidden, hidden's dtype; undefined unless asked for
};

// hidden · headᵀ (+ the adapter of the head, if any), in hidden's dtype, without gradients. For few rows.
at::Tensor head_logits(const at::Tensor& hidden_TD, const at::Tensor& head_VD, const LoraPair* lora);

enum class WithGradient { kNo, kYes };

// Cross-entropy of softmax(hidden · headᵀ) against targets_T (int64, -100 = not trained), calculated in fp32 from
// logits in hidden's dtype, for `chunk_rows` trained tokens at a time: rows without a target never reach the output
// head. `lora`: the head's adapter, or null; its product is taken as lora_linear takes it, and with a gradient its
// factors' gradients are added to the pair's.
LossResult chunked_cross_entropy(const at::Tensor& hidden_TD, const at::Tensor& head_VD, const at::Tensor& targets_T,
                                 WithGradient with_gradient, double loss_scale, const LoraPair* lora = nullptr,
                                 int64_t chunk_rows = 256);

}  // namespace moraine
