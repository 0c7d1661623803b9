// Parts of a decoder layer that the Qwen families share.
//
// Shape suffixes: T tokens, D hidden.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "models/model.h"

namespace moraine {

// The linear layer `module` ("self_attn.q_proj") of a dense image with its bias, if it has one, and its adapter.
at::Tensor adapted_linear(const ImageView& dense, const LayerAdapter& adapter, const std::string& module, const at::Tensor& x_TD);

// down(silu(gate(x))·up(x)); `prefix` is "mlp." or "mlp.shared_expert.".
at::Tensor swiglu_mlp(const ImageView& dense, const LayerAdapter& adapter, const std::string& prefix, const at::Tensor& x_TD);

enum class TopK { kAsTheyAre, kNormalised };  // the chosen experts' weights

// Softmax router, top-k, experts: the routed part of a sparse layer, and its record. All ranks of the EP group must call this.
at::Tensor routed_experts(const ImageView& dense, const ImageView& experts, const LayerAdapter& adapter, const ModelShape& shape,
                          TopK top_k, const at::Tensor& x_TD, const ForwardContext& context, LayerRecord& record);

}  // namespace moraine
