// Qwen3.5-MoE, the text class (transformers' modeling_qwen3_5_moe.py). The hub writes it in two ways: a multimodal
// checkpoint
// ("model.language_model.layers…"), whose text class is trained, or that text class alone ("model.layers…").
#include <fmt/format.h>

#include "base/text.h"
#include "models/blocks/read_delta_net.h"
#include "models/config_fields.h"
#include "models/families.h"

namespace moraine {

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
  const auto linear = std::make_shared<GatedDeltaNet>(read_delta_net(text, decoder));
  const auto moe = std::make_shared<SparseMoe>(read_moe(text, decoder, {.width = "moe_intermediate_size"}));
  moe->shared.emplace("mlp.shared_expert", decoder.hidden_size, width(text, "shared_expert_intermediate_size"));
  moe->shared_gated = true;
  for (const bool is_full : full_attention_layers(text, {}))
    decoder.layers.push_back({is_full ? std::shared_ptr<const Block>(full) : linear, moe});
  return decoder;
}

}  // namespace moraine
