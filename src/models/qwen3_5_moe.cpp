// Qwen3.5-MoE, the text class (transformers' modeling_qwen3_5_moe.py). The hub writes it in two ways: a multimodal
// checkpoint
// ("model.language_model.layers…"), whose text class is trained, or that text class alone ("model.layers…").
#include <fmt/format.h>

#include "base/text.h"
#include "models/blocks/gated_delta_net.h"
#include "models/blocks/read.h"
#include "models/config_fields.h"
#include "models/families.h"

namespace moraine {
namespace {

// Of each layer, whether its attention is full. Where both keys are given, layer_types wins over
// full_attention_interval.
std::vector<bool> full_attention_layers(const HfConfig& text, int64_t num_layers) {
  std::vector<bool> full;
  if (!text.has("layer_types")) {
    const int64_t interval = positive(text, "full_attention_interval");
    for (int64_t layer = 1; layer <= num_layers; ++layer) full.push_back(layer % interval == 0);
    return full;
  }
  for (const std::string& name : text.texts("layer_types")) {
    require(text, name == "linear_attention" || name == "full_attention",
            fmt::format("layer_types: {} is neither linear_attention nor full_attention", quote_text(name)));
    full.push_back(name == "full_attention");
  }
  require(text, full.size() == static_cast<size_t>(num_layers),
          fmt::format("layer_types has {} entries, num_hidden_layers is {}", full.size(), num_layers));
  return full;
}

GatedDeltaNet read_linear_attention(const HfConfig& text, const Decoder& decoder) {
  GatedDeltaNet linear;
  linear.hidden = decoder.hidden_size;
  linear.norm_eps = decoder.norm_eps;
  linear.key_heads = count(text, "linear_num_key_heads");
  linear.key_head_dim = width(text, "linear_key_head_dim");
  linear.value_heads = count(text, "linear_num_value_heads");
  linear.value_head_dim = width(text, "linear_value_head_dim");
  linear.conv_kernel = positive_or(text, "linear_conv_kernel_dim", 4, kMaxCount);
  require(text, linear.value_heads % linear.key_heads == 0, "linear_num_key_heads must divide linear_num_value_heads");
  return linear;
}

}  // namespace

Decoder describe_qwen3_5_moe(const HfConfig& config, DtypeChoice dtype) {
  const bool text_class = config.architecture() == "Qwen3_5MoeForCausalLM";
  const HfConfig text = text_class && !config.has("text_config") ? config : config.object("text_config");
  require(text, text.boolean("attn_output_gate", true), "attn_output_gate must be true");
  const std::string gate = text.text("output_gate_type", "swish");  // of linear attention; transformers has no other
  require(text, gate == "swish" || gate == "silu",
          fmt::format("output_gate_type {} is not supported", quote_text(gate)));
  require(text, text.integers("mlp_only_layers").empty() && text.integer("decoder_sparse_step", 1) == 1,
          "layers without experts (mlp_only_layers, decoder_sparse_step) are not supported");

  Decoder decoder = read_decoder(config, text, dtype, 1e-6);
  decoder.norm_kind = NormKind::kZeroCentered;
  decoder.model_prefixes = {"model.language_model.", "model."};
  if (text_class) std::swap(decoder.model_prefixes[0], decoder.model_prefixes[1]);
  decoder.stored.fused_experts = true;
  decoder.skipped = {{"model.visual.", "vision tower"}, {"mtp.", "multi-token prediction"}};
  // The interleaved M-RoPE of the multimodal class: a text token has one position on all three axes, which makes it
  // plain RoPE.
  const auto full = std::make_shared<Gqa>(read_gqa(text, decoder, {.head_dim = 256, .partial_rotary_factor = 0.25}));
  full->output_gate = true;
  const auto linear = std::make_shared<GatedDeltaNet>(read_linear_attention(text, decoder));
  const auto moe = std::make_shared<SparseMoe>(read_moe(text, decoder, "moe_intermediate_size"));
  moe->shared.emplace("mlp.shared_expert", decoder.hidden_size, width(text, "shared_expert_intermediate_size"));
  for (const bool is_full : full_attention_layers(text, layer_count(text)))
    decoder.layers.push_back({is_full ? std::shared_ptr<const Block>(full) : linear, moe});
  return decoder;
}

}  // namespace moraine
