// Linear layers of frozen weights with LoRA: one for all rows, or one for each expert over its rows.
//
// Shape suffixes: T rows (tokens), R rows sorted by expert, E experts, O output features, I input features.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "nn/lora.h"
#include "nn/quantized_weight.h"

namespace moraine {

// y_RO = x_RI · w_EOIᵀ of each row's expert (+ the expert's LoRA). Rows are sorted by expert: the first
// rows_of_expert[0] rows belong to expert 0, and so on; an expert may have none, and R may be 0. x and w have the same
// dtype, or w is quantised and dequantised to x's dtype a few experts at a time. Differentiable in x; the backward pass
// adds the factors' gradients to the LoRA pair's, and w is frozen. `lora` may be null; its factors are used in x's
// dtype. A factor with a first dimension of 1 is that of all experts.
at::Tensor grouped_linear(const at::Tensor& x_RI, const FrozenWeight& w_EOI, const std::vector<int64_t>& rows_of_expert,
                          const LoraPair* lora);

// y_TO = x_TI · w_OIᵀ (+ LoRA), the same for all rows, differentiable likewise. As in PEFT the adapter's products are
// taken in the dtype of its factors (fp32) and the sum is rounded once.
at::Tensor lora_linear(const at::Tensor& x_TI, const FrozenWeight& w_OI, const LoraPair* lora);

}  // namespace moraine
