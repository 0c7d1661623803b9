#include "models/qwen3_5_moe/config.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/text.h"
#include "models/config_fields.h"

namespace moraine::qwen3_5_moe {
namespace {

std::vector<LayerType> read_layer_types(const HfConfig& text, int64_t num_hidden_layers) {
  std::vector<LayerType> types;
  if (!text.has("layer_types")) {
    const int64_t interval = positive(text, "full_attention_interval");
    for (int64_t layer = 1; layer <= num_hidden_layers; ++layer)
      types.push_back(layer % interval == 0 ? LayerType::kFullAttention : LayerType::kLinearAttention);
    return types;
  }
  for (const std::string& name : text.texts("layer_types")) {
    require(text, name == "linear_attention" || name == "full_attention",
            fmt::format("layer_types: {} is neither linear_attention nor full_attention", quote_text(name)));
    types.push_back(name == "full_attention" ? LayerType::kFullAttention : LayerType::kLinearAttention);
  }
  require(text, types.size() == static_cast<size_t>(num_hidden_layers),
          fmt::format("layer_types has {} entries, num_hidden_layers is {}", types.size(), num_hidden_layers));
  return types;
}

void read_rope(const HfConfig& text, Config& c) {
  const char* key = text.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  const HfConfig rope = text.has(key) ? text.object(key) : HfConfig(Json::object(), text.where());
  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  if (type != "default") {
    throw input_error(text.where(), fmt::format("{}: rope_type {} is not supported for Qwen3.5-MoE", key, quote_text(type)),
                      "remove it: training at the native context length needs no RoPE scaling");
  }
  // mrope_section is of no matter here: a text token has the same position on all three of its axes.
  c.rope_theta = rope_theta(text, rope);
  const double kDefault = 0.25;  // transformers' for this family
  c.rotary_dim = rotary_dim(
      text, c.head_dim, rope.number("partial_rotary_factor", text.number("partial_rotary_factor", kDefault)));
}

}  // namespace

Config read_config(const HfConfig& config, const std::string& dtype) {
  Config c;
  c.model_class = config.architecture() == "Qwen3_5MoeForCausalLM" ? ModelClass::kCausalLM
                                                                   : ModelClass::kConditionalGeneration;
  const bool flat = c.model_class == ModelClass::kCausalLM && !config.has("text_config");
  const HfConfig text = flat ? config : config.object("text_config");

  c.vocab_size = positive(text, "vocab_size");
  c.hidden_size = width(text, "hidden_size");
  c.num_hidden_layers = layer_count(text);
  c.layer_types = read_layer_types(text, c.num_hidden_layers);
  c.rms_norm_eps = positive_number(text, "rms_norm_eps", 1e-6);
  c.num_attention_heads = count(text, "num_attention_heads");
  c.num_key_value_heads = count(text, "num_key_value_heads");
  c.head_dim = positive_or(text, "head_dim", 256, kMaxWidth);
  c.attention_bias = text.boolean("attention_bias", false);
  read_rope(text, c);
  c.linear_num_key_heads = count(text, "linear_num_key_heads");
  c.linear_key_head_dim = width(text, "linear_key_head_dim");
  c.linear_num_value_heads = count(text, "linear_num_value_heads");
  c.linear_value_head_dim = width(text, "linear_value_head_dim");
  c.linear_conv_kernel_dim = positive_or(text, "linear_conv_kernel_dim", 4, kMaxCount);
  const char* experts_key = text.has("num_experts") ? "num_experts" : "num_local_experts";
  c.num_experts = count(text, experts_key);
  check_experts(text, c.num_hidden_layers, experts_key, c.num_experts);
  c.num_experts_per_tok = count(text, "num_experts_per_tok");
  c.moe_intermediate_size = width(text, "moe_intermediate_size");
  c.shared_expert_intermediate_size = width(text, "shared_expert_intermediate_size");
  c.tie_word_embeddings = tie_word_embeddings(config);
  c.dtype = compute_dtype(config, dtype);
  c.fp8 = read_qwen_fp8(config);

  require(text, c.num_attention_heads % c.num_key_value_heads == 0,
          "num_key_value_heads must divide num_attention_heads");
  require(text, c.linear_num_value_heads % c.linear_num_key_heads == 0,
          "linear_num_key_heads must divide linear_num_value_heads");
  require(text, c.num_experts_per_tok <= c.num_experts,
          fmt::format("num_experts_per_tok {} is more than num_experts {}", c.num_experts_per_tok, c.num_experts));
  require(text, text.text("hidden_act", "silu") == "silu", "hidden_act must be silu");
  require(text, text.boolean("attn_output_gate", true), "attn_output_gate must be true");
  require(text, text.integers("mlp_only_layers").empty() && text.integer("decoder_sparse_step", 1) == 1,
          "layers without experts (mlp_only_layers, decoder_sparse_step) are not supported");
  return c;
}

}  // namespace moraine::qwen3_5_moe
