// LoRA adapters as a layer sees them. y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ (Hu et al. 2021, https://arxiv.org/abs/2106.09685).
//
// Shape suffixes: E experts (of this rank), O output features, I input features, R low rank.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <unordered_map>

#include "tensor/execution_device.h"

namespace moraine {

// Dropout of a linear layer's input on its way to the adapter. Which elements are left out is a function of both keys
// (nn/dropout.h), so a recomputation leaves out the same ones.
struct LoraDropout {
  double rate = 0;          // the probability that an element is left out; the others are divided by 1 - rate
  uint64_t layer_key = 0;   // of the adapted layer
  at::Tensor token_keys_T;  // int64, one for each row of the layer's input; undefined = no dropout
  bool on() const { return rate > 0 && token_keys_T.defined(); }
};

// The two factors of one adapted weight. A linear layer's are [R, I] and [O, R]; an expert parameter's [E, R, I] and
// [E, O, R], where a first dimension of 1 says that all experts share the factor. An embedding's are [R, V] and [O, R],
// V the vocabulary: its weight is [V, O] (nn/embedding.h). Any floating dtype; layers cast to their compute dtype.
struct LoraPair {
  at::Tensor a;
  at::Tensor b;
  double scaling = 1.0;
  // Of the same shapes, in gradient_dtype. A backward pass through a layer adds the factors' gradients here, whichever
  // pass and however many; autograd sees only activations. Undefined = not trained.
  at::Tensor a_grad;
  at::Tensor b_grad;
  LoraDropout dropout = {};  // of linear layers only

  // A linear layer's pair as that of a single expert.
  LoraPair as_expert() const {
    const auto of_one = [](const at::Tensor& x) { return x.defined() ? x.unsqueeze(0) : x; };
    return {of_one(a), of_one(b), scaling, of_one(a_grad), of_one(b_grad)};
  }
};

// What the factors' gradients, which are sums over all tokens of a step, are summed in. In fp64 the order of such a sum
// shows in about one of 10⁸ elements once it is rounded to fp32: so the gradient is the same however tokens are spread
// over micro-batches, experts and ranks. On CUDA, where few devices have fp64 units to speak of, fp32.
inline at::ScalarType gradient_dtype(at::Device device) {
  return execution_device(device).is_cpu() ? at::kDouble : at::kFloat;
}

// The adapters of one layer, by module or parameter name within the layer ("self_attn.q_proj",
// "mlp.experts.down_proj").
struct LayerAdapter {
  std::unordered_map<std::string, LoraPair> pairs;

  // nullptr = not adapted.
  const LoraPair* find(const std::string& name) const {
    auto it = pairs.find(name);
    return it == pairs.end() ? nullptr : &it->second;
  }
};

}  // namespace moraine
