// The fields of a Qwen3.5-MoE config.json that change the mathematics.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/hf_config.h"
#include "formats/dtype.h"
#include "models/qwen_fp8.h"

namespace moraine::qwen3_5_moe {

enum class LayerType { kLinearAttention, kFullAttention };

// The two ways in which the hub writes this family: a multimodal checkpoint ("model.language_model.layers…"), whose text
// class is trained, or that text class alone ("model.layers…").
enum class ModelClass { kConditionalGeneration, kCausalLM };

struct Config {
  ModelClass model_class;
  int64_t vocab_size, hidden_size, num_hidden_layers;
  std::vector<LayerType> layer_types;  // one a layer
  double rms_norm_eps;
  // Full attention. q_proj makes a query and an output gate of head_dim each for every head.
  int64_t num_attention_heads, num_key_value_heads, head_dim;
  bool attention_bias;
  double rope_theta;
  int64_t rotary_dim;  // head_dim · partial_rotary_factor: the first dims of a head that RoPE turns, half-split
  // Linear attention (gated delta rule).
  int64_t linear_num_key_heads, linear_key_head_dim, linear_num_value_heads, linear_value_head_dim;
  int64_t linear_conv_kernel_dim;
  // Every layer has routed experts and one shared expert with a gate of its own. The chosen experts' weights are always
  // normalised.
  int64_t num_experts, num_experts_per_tok, moe_intermediate_size, shared_expert_intermediate_size;
  bool tie_word_embeddings;
  DType dtype;  // compute dtype
  std::optional<QwenFp8> fp8;  // how the weights are stored; nullopt: in a floating dtype

  int64_t linear_key_dim() const { return linear_num_key_heads * linear_key_head_dim; }
  int64_t linear_value_dim() const { return linear_num_value_heads * linear_value_head_dim; }
  int64_t linear_conv_dim() const { return 2 * linear_key_dim() + linear_value_dim(); }  // queries, keys, values

  friend bool operator==(const Config&, const Config&) = default;
};

// `dtype`: auto | bfloat16 | float32. The fields lie in text_config, or at the top for the text class alone. Where both are
// given, layer_types wins over full_attention_interval. Throws an input error that names the key for what is missing,
// impossible or not supported (RoPE scaling, layers without experts, other activations, other quantisations).
Config read_config(const HfConfig& config, const std::string& dtype);

}  // namespace moraine::qwen3_5_moe
