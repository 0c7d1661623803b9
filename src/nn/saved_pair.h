// What backward passes of linear layers keep besides tensors, and of a LoRA pair besides activations. Gradients are kept as plain values:
// they change between backward passes, which autograd's saved variables do not allow.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include "nn/lora.h"
#include "nn/quantized_weight.h"

namespace moraine {

inline void save_pair(torch::autograd::AutogradContext* context, const LoraPair* lora) {
  context->saved_data["scaling"] = lora ? lora->scaling : 1.0;
  if (!lora || !lora->a_grad.defined()) return;
  context->saved_data["a_grad"] = lora->a_grad;
  context->saved_data["b_grad"] = lora->b_grad;
}

inline double saved_scaling(torch::autograd::AutogradContext* context) { return context->saved_data["scaling"].toDouble(); }

// `name`: a_grad or b_grad. Undefined where the pair is not trained.
inline at::Tensor saved_grad(torch::autograd::AutogradContext* context, const char* name) {
  const auto found = context->saved_data.find(name);
  return found == context->saved_data.end() ? at::Tensor() : found->second.toTensor();
}

inline void save_blocks(torch::autograd::AutogradContext* context, const ScaleBlocks& blocks) {
  context->saved_data["scale_blocks"] = std::vector<int64_t>{blocks.rows, blocks.columns, blocks.matrices};
}

inline ScaleBlocks saved_blocks(torch::autograd::AutogradContext* context) {
  const std::vector<int64_t> blocks = context->saved_data["scale_blocks"].toIntVector();
  return {blocks[0], blocks[1], blocks[2]};
}

}  // namespace moraine
