#include "models/qwen3_moe/layout.h"

#include <fmt/format.h>

#include <algorithm>

#include "models/output_head.h"
#include "models/param_specs.h"
#include "models/qwen_params.h"

namespace moraine::qwen3_moe {
namespace {

std::string layer_prefix(int64_t layer) { return fmt::format("model.layers.{}.", layer); }

// The tensors of nn/attention and of the linear layers around it.
AttentionMemory attention_memory(const Config& c, int64_t layer) {
  const int64_t queries = c.num_attention_heads * c.head_dim, keys = c.num_key_value_heads * c.head_dim;
  const int64_t widest = std::max({queries, c.hidden_size, c.is_moe_layer(layer) ? c.num_experts : c.intermediate_size});
  // Queries before and after RoPE, keys and values for every query head, keys before, the output.
  return {.tape = static_cast<double>(5 * queries + keys),
          .backward = 2.0 * static_cast<double>(2 * queries + 2 * keys),
          .backward_fp32 = 3.0 * static_cast<double>(widest)};
}

}  // namespace

Qwen3MoeLayout::Qwen3MoeLayout(Config config) : config_(std::move(config)) {
  const Config& c = config_;
  shape_ = {.num_hidden_layers = c.num_hidden_layers,
            .hidden_size = c.hidden_size,
            .vocab_size = c.vocab_size,
            .num_experts = c.num_experts,
            .num_experts_per_tok = c.num_experts_per_tok,
            .dtype = c.dtype,
            .expert_intermediate = c.moe_intermediate_size};
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) shape_.attention.push_back(attention_memory(c, layer));
}

ImageSpec Qwen3MoeLayout::root_spec(const StoredDtype& stored) const {
  const Config& c = config_;
  ImageSpec root{"root", ImageKind::kRoot, {}};
  auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    root.params.push_back(stored_whole(name, name, std::move(shape), c.dtype));
  };
  add("model.embed_tokens.weight", {c.vocab_size, c.hidden_size});
  add("model.norm.weight", {c.hidden_size});
  if (has_own_head(c.tie_word_embeddings, "lm_head.weight", stored)) add("lm_head.weight", {c.vocab_size, c.hidden_size});
  return root;
}

ImageSpec Qwen3MoeLayout::dense_spec(int64_t layer, const StoredDtype& stored) const {
  const Config& c = config_;
  const int64_t q_width = c.num_attention_heads * c.head_dim, kv_width = c.num_key_value_heads * c.head_dim;
  ImageSpec spec{fmt::format("layers.{}.dense", layer), ImageKind::kDense, {}};
  QwenParams params(layer_prefix(layer), c.dtype, c.fp8, stored, spec);
  params.add("input_layernorm.weight", {c.hidden_size});
  params.add_linear("self_attn.q_proj", q_width, c.hidden_size);
  params.add_linear("self_attn.k_proj", kv_width, c.hidden_size);
  params.add_linear("self_attn.v_proj", kv_width, c.hidden_size);
  params.add_linear("self_attn.o_proj", c.hidden_size, q_width);
  if (c.attention_bias) {
    params.add("self_attn.q_proj.bias", {q_width});
    params.add("self_attn.k_proj.bias", {kv_width});
    params.add("self_attn.v_proj.bias", {kv_width});
    params.add("self_attn.o_proj.bias", {c.hidden_size});
  }
  params.add("self_attn.q_norm.weight", {c.head_dim});
  params.add("self_attn.k_norm.weight", {c.head_dim});
  params.add("post_attention_layernorm.weight", {c.hidden_size});
  if (c.is_moe_layer(layer)) {
    params.add("mlp.gate.weight", {c.num_experts, c.hidden_size});
  } else {
    params.add_linear("mlp.gate_proj", c.intermediate_size, c.hidden_size);
    params.add_linear("mlp.up_proj", c.intermediate_size, c.hidden_size);
    params.add_linear("mlp.down_proj", c.hidden_size, c.intermediate_size);
  }
  return spec;
}

ImageSpec Qwen3MoeLayout::experts_spec(int64_t layer, const StoredDtype& stored) const {
  const Config& c = config_;
  ImageSpec spec{fmt::format("layers.{}.experts", layer), ImageKind::kExperts, {}};
  if (!c.is_moe_layer(layer)) return spec;
  const bool fused = stored(layer_prefix(layer) + "mlp.experts.gate_up_proj").has_value();
  QwenParams params(layer_prefix(layer), c.dtype, c.fp8, stored, spec);
  params.add_experts(fused ? ExpertFiles::kFused : ExpertFiles::kOneEach, c.num_experts, c.moe_intermediate_size, c.hidden_size);
  return spec;
}

std::optional<std::string> Qwen3MoeLayout::why_skipped(const std::string& tensor) const {
  if (tensor.ends_with(".rotary_emb.inv_freq")) return "computed from config.json";  // in older exports
  return std::nullopt;
}

std::vector<LoraModule> Qwen3MoeLayout::lora_modules() const {
  const Config& c = config_;
  const int64_t q_width = c.num_attention_heads * c.head_dim, kv_width = c.num_key_value_heads * c.head_dim;
  std::vector<LoraModule> modules;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    auto add = [&](const std::string& name, int64_t experts, int64_t in, int64_t out) {
      modules.push_back({layer_prefix(layer) + name, layer, name, experts, in, out});
    };
    add("self_attn.q_proj", 0, c.hidden_size, q_width);
    add("self_attn.k_proj", 0, c.hidden_size, kv_width);
    add("self_attn.v_proj", 0, c.hidden_size, kv_width);
    add("self_attn.o_proj", 0, q_width, c.hidden_size);
    // The linear layers of a dense MLP are not offered: PEFT (0.21, transformers 5) takes the names gate_proj, up_proj and
    // down_proj for this family's experts, so no adapter_config.json can say "the dense layer's".
    if (!c.is_moe_layer(layer)) continue;
    add("mlp.experts.gate_up_proj", c.num_experts, c.hidden_size, 2 * c.moe_intermediate_size);
    add("mlp.experts.down_proj", c.num_experts, c.moe_intermediate_size, c.hidden_size);
  }
  return modules;
}

}  // namespace moraine::qwen3_moe
