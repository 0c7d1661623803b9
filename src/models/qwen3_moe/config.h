// The fields of a Qwen3-MoE config.json that change the mathematics.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/hf_config.h"
#include "formats/dtype.h"
#include "models/qwen_fp8.h"

namespace moraine::qwen3_moe {

struct Config {
  int64_t vocab_size, hidden_size, num_hidden_layers;
  int64_t num_attention_heads, num_key_value_heads, head_dim;
  bool attention_bias;
  double rms_norm_eps, rope_theta;
  int64_t num_experts, num_experts_per_tok, moe_intermediate_size;
  bool norm_topk_prob;
  int64_t decoder_sparse_step;
  std::vector<int64_t> mlp_only_layers;
  int64_t intermediate_size;  // of dense layers
  bool tie_word_embeddings;
  DType dtype;  // compute dtype
  std::optional<QwenFp8> fp8;  // how the weights are stored; nullopt: in a floating dtype

  // transformers' rule: every decoder_sparse_step-th layer has experts unless mlp_only_layers lists it.
  bool is_moe_layer(int64_t layer) const;
};

// `dtype`: auto | bfloat16 | float32. Accepts both ways of writing RoPE and the number of experts (num_experts,
// num_local_experts). Throws an input error that names the key for what is missing, impossible or not supported
// (sliding window, RoPE scaling, other activations, other quantisations).
Config read_config(const HfConfig& config, const std::string& dtype);

}  // namespace moraine::qwen3_moe
