// What backward passes of linear layers keep besides tensors, and of a LoRA pair besides activations. Gradients are
// kept as plain values: they change between backward passes, which autograd's saved variables do not allow.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include <vector>

#include "nn/lora.h"
#include "nn/quantized_weight.h"

namespace moraine {

inline void save_pair(torch::autograd::AutogradContext* context, const LoraPair* lora) {
  context->saved_data["scaling"] = lora ? lora->scaling : 1.0;
  if (!lora || !lora->a_grad.defined()) return;
  context->saved_data["a_grad"] = lora->a_grad;
  context->saved_data["b_grad"] = lora->b_grad;
}

inline double saved_scaling(torch::autograd::AutogradContext* context) {
  return context->saved_data["scaling"].toDouble();
}

// `name`: a_grad or b_grad. Undefined where the pair is not trained.
inline at::Tensor saved_grad(torch::autograd::AutogradContext* context, const char* name) {
  const auto found = context->saved_data.find(name);
  return found == context->saved_data.end() ? at::Tensor() : found->second.toTensor();
}

// Of one matrix for each expert, and the same on the way back.
struct SavedLinear {
  at::Tensor x;  // undefined without LoRA, as are a, b (in x's dtype) and low, x · Aᵀ
  FrozenWeight w;
  at::Tensor a, b, low;
  std::vector<int64_t> rows_of_expert;

  void save(torch::autograd::AutogradContext* context) const {
    context->save_for_backward({x, w.values, w.scale, a, b, low});
    context->saved_data["rows_of_expert"] = rows_of_expert;
    if (w.format) {
      const QuantFormat& f = *w.format;
      context->saved_data["format"] = std::vector<int64_t>{
          static_cast<int64_t>(f.codes), static_cast<int64_t>(f.scales), f.block_rows, f.block_columns, w.matrices};
    }
  }
  static SavedLinear load(torch::autograd::AutogradContext* context) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    FrozenWeight w(saved[1]);
    if (const auto found = context->saved_data.find("format"); found != context->saved_data.end()) {
      const std::vector<int64_t> f = found->second.toIntVector();
      w = {saved[1], saved[2], {static_cast<DType>(f[0]), static_cast<DType>(f[1]), f[2], f[3]}, f[4]};
    }
    return {saved[0], w, saved[3], saved[4], saved[5], context->saved_data["rows_of_expert"].toIntVector()};
  }
};

}  // namespace moraine
