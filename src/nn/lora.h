// LoRA adapters as a layer sees them. y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ (Hu et al. 2021, https://arxiv.org/abs/2106.09685).
//
// Shape suffixes: E experts (of this rank), O output features, I input features, R low rank.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <unordered_map>

namespace moraine {

// The two factors of one adapted weight. A linear layer's are [R, I] and [O, R]; an expert parameter's [E, R, I] and
// [E, O, R]. Any floating dtype; layers cast to their compute dtype, so gradients reach the master tensors in theirs.
struct LoraPair {
  at::Tensor a;
  at::Tensor b;
  double scaling = 1.0;  // lora_alpha / r
};

// The adapters of one layer, by module or parameter name within the layer ("self_attn.q_proj", "mlp.experts.down_proj").
struct LayerAdapter {
  std::unordered_map<std::string, LoraPair> pairs;

  // nullptr = not adapted.
  const LoraPair* find(const std::string& name) const {
    auto it = pairs.find(name);
    return it == pairs.end() ? nullptr : &it->second;
  }
};

}  // namespace moraine
