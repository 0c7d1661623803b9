// A linear layer of frozen weights with its adapter.
//
// Shape suffixes: T tokens, O output features, I input features.
#pragma once

#include "models/blocks/block.h"

namespace moraine {

struct Linear {
  std::string name;  // within the layer: "self_attn.q_proj"
  int64_t out, in;
  bool bias = false;
  bool lora = true;  // whether LoRA can adapt it

  void declare(Declaration& d) const { d.linear(name, out, in, {.bias = bias, .lora = lora}); }
  // x_TI → [T, O]
  at::Tensor operator()(const at::Tensor& x_TI, const LayerScope& scope) const;
};

}  // namespace moraine
