#include "models/qwen3_5_moe/layout.h"

#include <fmt/format.h>

#include <algorithm>

#include "models/output_head.h"
#include "models/param_specs.h"
#include "models/qwen_params.h"
#include "nn/gated_delta_rule.h"

namespace moraine::qwen3_5_moe {
namespace {

// What stands before "layers.3…" in the files.
std::string stored_prefix(const Config& c, const StoredDtype& stored) {
  const std::string multimodal = "model.language_model.", text_only = "model.";
  if (stored(multimodal + "embed_tokens.weight")) return multimodal;
  if (stored(text_only + "embed_tokens.weight")) return text_only;
  return c.model_class == ModelClass::kConditionalGeneration ? multimodal : text_only;
}

bool is_full_attention(const Config& c, int64_t layer) { return c.layer_types[layer] == LayerType::kFullAttention; }

// The tensors of Qwen3_5MoeModel::self_attn.
AttentionMemory full_attention_memory(const Config& c) {
  const double heads = static_cast<double>(c.num_attention_heads), kv_heads = static_cast<double>(c.num_key_value_heads);
  const double queries = heads * static_cast<double>(c.head_dim), keys = kv_heads * static_cast<double>(c.head_dim);
  // Queries with their gates, keys, turned queries, keys and values for every query head, the attention's output, open gates,
  // gated output.
  return {.tape = 8 * queries + keys,
          .tape_fp32 = 2 * heads + kv_heads,
          .backward = 2 * (3 * queries + 2 * keys),
          .backward_fp32 = 6 * queries};
}

// The tensors of Qwen3_5MoeModel::linear_attn and, in fp32, of nn/gated_delta_rule for whole chunks.
AttentionMemory linear_attention_memory(const Config& c) {
  const double heads = static_cast<double>(c.linear_num_value_heads), values = static_cast<double>(c.linear_value_dim());
  const double keys = static_cast<double>(c.linear_key_dim());
  const double square = heads * kDeltaChunkRows;  // a matrix of a chunk's rows by its rows, for each value head
  const double state = values * static_cast<double>(c.linear_key_head_dim) / kDeltaChunkRows;  // one a chunk
  // The convolution's input and output; the recurrence's output, gates, and what the norm makes of both.
  return {.tape = 2 * static_cast<double>(c.linear_conv_dim()) + 3 * values + heads,
          // (I + A)⁻¹, the corrections and the states; decays.
          .tape_fp32 = square + values + state + 4 * heads,
          .backward = values,
          // Queries, keys and values in chunks with Γ, A and P; gradients of the output, R, the values, A, P and the states; what
          // was read; a product with the states.
          .backward_fp32 = 2 * keys + 5 * values + 5 * square + 2 * state};
}

}  // namespace

Qwen3_5MoeLayout::Qwen3_5MoeLayout(Config config) : config_(std::move(config)) {
  const Config& c = config_;
  shape_ = {.num_hidden_layers = c.num_hidden_layers,
            .hidden_size = c.hidden_size,
            .vocab_size = c.vocab_size,
            .num_experts = c.num_experts,
            .num_experts_per_tok = c.num_experts_per_tok,
            .dtype = c.dtype,
            .expert_intermediate = c.moe_intermediate_size,
            .shared_intermediate = c.shared_expert_intermediate_size};
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer)
    shape_.attention.push_back(is_full_attention(c, layer) ? full_attention_memory(c) : linear_attention_memory(c));
}

ImageSpec Qwen3_5MoeLayout::root_spec(const StoredDtype& stored) const {
  const Config& c = config_;
  const std::string prefix = stored_prefix(c, stored);
  ImageSpec root{"root", ImageKind::kRoot, {}};
  root.params.push_back(
      stored_whole("model.embed_tokens.weight", prefix + "embed_tokens.weight", {c.vocab_size, c.hidden_size}, c.dtype));
  root.params.push_back(stored_whole("model.norm.weight", prefix + "norm.weight", {c.hidden_size}, c.dtype));
  if (has_own_head(c.tie_word_embeddings, "lm_head.weight", stored))
    root.params.push_back(stored_whole("lm_head.weight", "lm_head.weight", {c.vocab_size, c.hidden_size}, c.dtype));
  return root;
}

ImageSpec Qwen3_5MoeLayout::dense_spec(int64_t layer, const StoredDtype& stored) const {
  const Config& c = config_;
  const std::string prefix = fmt::format("{}layers.{}.", stored_prefix(c, stored), layer);
  const int64_t H = c.hidden_size, shared = c.shared_expert_intermediate_size;
  ImageSpec spec{fmt::format("layers.{}.dense", layer), ImageKind::kDense, {}};
  // All in the compute dtype but quantised weights; A_log and the linear attention's norm too, which some releases store in F32:
  // transformers casts them likewise.
  QwenParams params(prefix, c.dtype, c.fp8, stored, spec);
  params.add("input_layernorm.weight", {H});
  if (is_full_attention(c, layer)) {
    const int64_t q_width = c.num_attention_heads * c.head_dim, kv_width = c.num_key_value_heads * c.head_dim;
    params.add_linear("self_attn.q_proj", 2 * q_width, H);
    params.add_linear("self_attn.k_proj", kv_width, H);
    params.add_linear("self_attn.v_proj", kv_width, H);
    params.add_linear("self_attn.o_proj", H, q_width);
    if (c.attention_bias) {
      params.add("self_attn.q_proj.bias", {2 * q_width});
      params.add("self_attn.k_proj.bias", {kv_width});
      params.add("self_attn.v_proj.bias", {kv_width});
      params.add("self_attn.o_proj.bias", {H});
    }
    params.add("self_attn.q_norm.weight", {c.head_dim});
    params.add("self_attn.k_norm.weight", {c.head_dim});
  } else {
    params.add_linear("linear_attn.in_proj_qkv", c.linear_conv_dim(), H);
    params.add_linear("linear_attn.in_proj_z", c.linear_value_dim(), H);
    params.add_linear("linear_attn.in_proj_b", c.linear_num_value_heads, H);
    params.add_linear("linear_attn.in_proj_a", c.linear_num_value_heads, H);
    params.add("linear_attn.conv1d.weight", {c.linear_conv_dim(), 1, c.linear_conv_kernel_dim});
    params.add("linear_attn.dt_bias", {c.linear_num_value_heads});
    params.add("linear_attn.A_log", {c.linear_num_value_heads});
    params.add("linear_attn.norm.weight", {c.linear_value_head_dim});
    params.add_linear("linear_attn.out_proj", H, c.linear_value_dim());
  }
  params.add("post_attention_layernorm.weight", {H});
  params.add("mlp.gate.weight", {c.num_experts, H});
  params.add_linear("mlp.shared_expert.gate_proj", shared, H);
  params.add_linear("mlp.shared_expert.up_proj", shared, H);
  params.add_linear("mlp.shared_expert.down_proj", H, shared);
  params.add_linear("mlp.shared_expert_gate", 1, H);
  return spec;
}

ImageSpec Qwen3_5MoeLayout::experts_spec(int64_t layer, const StoredDtype& stored) const {
  const Config& c = config_;
  const std::string prefix = fmt::format("{}layers.{}.", stored_prefix(c, stored), layer), experts = prefix + "mlp.experts.";
  // The FP8 releases have a tensor for each expert, the others fused ones.
  const bool one_each = stored(experts + "0.gate_proj.weight") || (c.fp8 && !stored(experts + "gate_up_proj"));
  ImageSpec spec{fmt::format("layers.{}.experts", layer), ImageKind::kExperts, {}};
  QwenParams params(prefix, c.dtype, c.fp8, stored, spec);
  params.add_experts(one_each ? ExpertFiles::kOneEach : ExpertFiles::kFused, c.num_experts, c.moe_intermediate_size, c.hidden_size);
  return spec;
}

std::optional<std::string> Qwen3_5MoeLayout::why_skipped(const std::string& tensor) const {
  if (tensor.starts_with("model.visual.")) return "vision tower";
  if (tensor.starts_with("mtp.")) return "multi-token prediction";
  return std::nullopt;
}

std::vector<LoraModule> Qwen3_5MoeLayout::lora_modules() const {
  const Config& c = config_;
  const int64_t H = c.hidden_size, shared = c.shared_expert_intermediate_size;
  const int64_t q_width = c.num_attention_heads * c.head_dim, kv_width = c.num_key_value_heads * c.head_dim;
  std::vector<LoraModule> modules;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    auto add = [&](const std::string& name, int64_t experts, int64_t in, int64_t out) {
      modules.push_back({fmt::format("model.layers.{}.{}", layer, name), layer, name, experts, in, out});
    };
    if (is_full_attention(c, layer)) {
      add("self_attn.q_proj", 0, H, 2 * q_width);
      add("self_attn.k_proj", 0, H, kv_width);
      add("self_attn.v_proj", 0, H, kv_width);
      add("self_attn.o_proj", 0, q_width, H);
    } else {
      add("linear_attn.out_proj", 0, c.linear_value_dim(), H);
      add("linear_attn.in_proj_qkv", 0, H, c.linear_conv_dim());
      add("linear_attn.in_proj_z", 0, H, c.linear_value_dim());
      add("linear_attn.in_proj_b", 0, H, c.linear_num_value_heads);
      add("linear_attn.in_proj_a", 0, H, c.linear_num_value_heads);
    }
    add("mlp.experts.gate_up_proj", c.num_experts, H, 2 * c.moe_intermediate_size);
    add("mlp.experts.down_proj", c.num_experts, c.moe_intermediate_size, H);
    add("mlp.shared_expert.gate_proj", 0, H, shared);
    add("mlp.shared_expert.up_proj", 0, H, shared);
    add("mlp.shared_expert.down_proj", 0, shared, H);
    add("mlp.shared_expert_gate", 0, H, 1);
  }
  return modules;
}

}  // namespace moraine::qwen3_5_moe
