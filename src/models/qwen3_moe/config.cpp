#include "models/qwen3_moe/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "models/config_fields.h"

namespace moraine::qwen3_moe {
namespace {

double read_rope_theta(const HfConfig& config) {
  constexpr double kDefault = 10000.0;  // transformers' for this family when nothing is said
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!config.has(key)) continue;
    HfConfig rope = config.object(key);
    std::string type = rope.text("rope_type", rope.text("type", "default"));
    if (type != "default") {
      throw input_error(config.where(), fmt::format("{}: rope_type {} is not supported for Qwen3-MoE", key, type),
                        "remove it: training at the native context length needs no RoPE scaling");
    }
    if (rope.has("rope_theta")) return positive_number(rope, "rope_theta", kDefault);
  }
  return positive_number(config, "rope_theta", kDefault);
}

void check(const HfConfig& config, bool ok, const std::string& what) {
  if (!ok) throw input_error(config.where(), what, "not a Qwen3-MoE configuration that can be computed");
}

}  // namespace

bool Config::is_moe_layer(int64_t layer) const {
  if (std::find(mlp_only_layers.begin(), mlp_only_layers.end(), layer) != mlp_only_layers.end()) return false;
  return num_experts > 0 && (layer + 1) % decoder_sparse_step == 0;
}

Config read_config(const HfConfig& config, const std::string& dtype) {
  Config c;
  c.vocab_size = positive(config, "vocab_size");
  c.hidden_size = width(config, "hidden_size");
  c.num_hidden_layers = layer_count(config);
  c.num_attention_heads = count(config, "num_attention_heads");
  c.num_key_value_heads = positive_or(config, "num_key_value_heads", c.num_attention_heads, kMaxCount);
  c.head_dim = positive_or(config, "head_dim", c.hidden_size / c.num_attention_heads, kMaxWidth);
  c.attention_bias = config.boolean("attention_bias", false);
  c.rms_norm_eps = positive_number(config, "rms_norm_eps", 1e-6);
  c.rope_theta = read_rope_theta(config);
  const char* experts_key = config.has("num_experts") ? "num_experts" : "num_local_experts";
  c.num_experts = count(config, experts_key);
  check_experts(config, c.num_hidden_layers, experts_key, c.num_experts);
  c.num_experts_per_tok = count(config, "num_experts_per_tok");
  c.moe_intermediate_size = width(config, "moe_intermediate_size");
  c.norm_topk_prob = config.boolean("norm_topk_prob", false);
  c.decoder_sparse_step = positive_or(config, "decoder_sparse_step", 1);
  c.mlp_only_layers = config.integers("mlp_only_layers");
  c.intermediate_size = positive_or(config, "intermediate_size", 6144, kMaxWidth);
  c.tie_word_embeddings = tie_word_embeddings(config);
  c.dtype = compute_dtype(config, dtype);
  c.fp8 = read_qwen_fp8(config);

  check(config, c.num_attention_heads % c.num_key_value_heads == 0, "num_key_value_heads must divide num_attention_heads");
  check(config, c.head_dim % 2 == 0, "head_dim must be even");
  check(config, c.num_experts_per_tok <= c.num_experts,
        fmt::format("num_experts_per_tok {} must be between 1 and num_experts {}", c.num_experts_per_tok, c.num_experts));
  check(config, config.text("hidden_act", "silu") == "silu", "hidden_act must be silu");
  check(config, !config.boolean("use_sliding_window", false) || !config.has("sliding_window"),
        "sliding window attention is not supported");
  return c;
}

}  // namespace moraine::qwen3_moe
