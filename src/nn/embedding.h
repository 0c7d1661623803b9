// The token embedding, with LoRA.
//
// Shape suffixes: T tokens, V vocabulary, D width.
#pragma once

#include <ATen/ATen.h>

#include "nn/lora.h"

namespace moraine {

// The rows of weight_VD that ids_T (int64) names, and with `lora` + s · (A's columns of these ids)ᵀ · Bᵀ, in the dtype
// of the factors and rounded once, as PEFT's lora.Embedding. Where autograd records, the result has a history, whose
// backward pass adds the factors' gradients to the pair's; there is no gradient of anything else.
at::Tensor token_embedding(const at::Tensor& weight_VD, const at::Tensor& ids_T, const LoraPair* lora);

}  // namespace moraine
