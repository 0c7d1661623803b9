// grouped_linear with at::_grouped_mm: one kernel for all experts instead of a few launches each.
//
// Shape suffixes: R rows sorted by expert, E experts, O output features, I input features.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "nn/lora.h"
#include "nn/quantized_weight.h"

namespace moraine {

// Where it is the faster way: bf16 on CUDA. It wants rows of 16 bytes, so O and I to be multiples of 8.
bool grouped_mm_is_faster(const at::Tensor& x_RI, const FrozenWeight& w_EOI);

// As grouped_linear, for bf16 x, on the CPU too. The adapter's products are rounded to bf16 once more than there,
// before they are added to y, dx and the factors' gradients.
at::Tensor grouped_mm_linear(const at::Tensor& x_RI, const FrozenWeight& w_EOI,
                             const std::vector<int64_t>& rows_of_expert, const LoraPair* lora);

}  // namespace moraine
