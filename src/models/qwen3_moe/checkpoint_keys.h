// Where Qwen3-MoE's parameters lie in a checkpoint (hub: a tensor per expert; also transformers' fused 3-D tensors).
#pragma once

#include "models/model.h"
#include "models/qwen3_moe/config.h"

namespace moraine::qwen3_moe {

ImageSpec root_spec(const Config& config, const HasTensor& has_tensor);
ImageSpec dense_spec(const Config& config, int64_t layer);
ImageSpec experts_spec(const Config& config, int64_t layer, const HasTensor& has_tensor);
// Computed buffers of older exports.
bool is_known_extra(const Config& config, const std::string& tensor);
std::vector<LoraModule> lora_modules(const Config& config);

}  // namespace moraine::qwen3_moe
