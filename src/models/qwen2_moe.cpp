// Qwen1.5-MoE and Qwen2-MoE (transformers' modeling_qwen2_moe.py).
#include "models/blocks/read.h"
#include "models/config_fields.h"
#include "models/families.h"

namespace moraine {

Decoder describe_qwen2_moe(const HfConfig& config, DtypeChoice dtype) {
  require(config, !config.boolean("use_sliding_window", false), "use_sliding_window is not supported");
  for (const std::string& type : config.texts("layer_types"))
    require(config, type == "full_attention", "layer_types: only full_attention is supported");
  Decoder decoder = read_decoder(config, config, dtype, 1e-6);
  const int64_t hidden = decoder.hidden_size;
  const auto attention = std::make_shared<Gqa>(read_gqa(config, decoder, {.kv_heads = 16, .rope_theta = 10000}));
  attention->bias = config.boolean("qkv_bias", true);
  attention->o_bias = false;
  attention->qk_norm = QkNorm::kNone;
  const auto moe = std::make_shared<SparseMoe>(read_moe(config, decoder, {.width = "moe_intermediate_size"}));
  moe->router.normalised = config.boolean("norm_topk_prob", false);
  // PEFT takes gate_proj, up_proj and down_proj for the routed experts (see qwen3_moe.cpp).
  moe->shared.emplace("mlp.shared_expert", hidden, width(config, "shared_expert_intermediate_size"), /*lora=*/false);
  moe->shared_gated = true;
  const int64_t intermediate = positive_or(config, "intermediate_size", 5632, kMaxWidth);
  const auto mlp = std::make_shared<Mlp>("mlp", hidden, intermediate, /*lora=*/false);
  for (const bool sparse : sparse_layers(config))
    decoder.layers.push_back({attention, sparse ? std::shared_ptr<const Block>(moe) : mlp});
  return decoder;
}

}  // namespace moraine
