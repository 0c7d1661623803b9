// Qwen3-Next (transformers' modeling_qwen3_next.py).
#include "models/blocks/read_delta_net.h"
#include "models/config_fields.h"
#include "models/families.h"

namespace moraine {

Decoder describe_qwen3_next(const HfConfig& config, DtypeChoice dtype) {
  require(config, !config.boolean("use_sliding_window", false), "use_sliding_window is not supported");
  Decoder decoder = read_decoder(config, config, dtype, 1e-6);
  decoder.norm_kind = NormKind::kZeroCentered;
  decoder.skipped.push_back({"mtp.", "multi-token prediction"});
  const int64_t hidden = decoder.hidden_size;
  const auto full = std::make_shared<Gqa>(
      read_gqa(config, decoder, {.kv_heads = 2, .head_dim = 256, .rope_theta = 10000, .partial_rotary_factor = 0.25}));
  full->output_gate = true;
  const auto linear = std::make_shared<GatedDeltaNet>(read_delta_net(config, decoder));
  linear->grouped = true;
  const auto moe = std::make_shared<SparseMoe>(read_moe(config, decoder, {.width = "moe_intermediate_size"}));
  moe->router.normalised = config.boolean("norm_topk_prob", true);
  // PEFT takes gate_proj, up_proj and down_proj for the routed experts (see qwen3_moe.cpp).
  moe->shared.emplace("mlp.shared_expert", hidden, width(config, "shared_expert_intermediate_size"), /*lora=*/false);
  moe->shared_gated = true;
  const int64_t intermediate = positive_or(config, "intermediate_size", 5632, kMaxWidth);
  const auto mlp = std::make_shared<Mlp>("mlp", hidden, intermediate, /*lora=*/false);
  const std::vector<bool> is_full = full_attention_layers(config, 4), is_sparse = sparse_layers(config);
  for (int64_t layer = 0; layer < layer_count(config); ++layer)
    decoder.layers.push_back({is_full[layer] ? std::shared_ptr<const Block>(full) : linear,
                              is_sparse[layer] ? std::shared_ptr<const Block>(moe) : mlp});
  return decoder;
}

}  // namespace moraine
