// Qwen3-MoE (transformers' modeling_qwen3_moe.py).
#include "models/blocks/read.h"
#include "models/config_fields.h"
#include "models/families.h"

namespace moraine {

Decoder describe_qwen3_moe(const HfConfig& config, DtypeChoice dtype) {
  require(config, !config.boolean("use_sliding_window", false) || !config.has("sliding_window"),
          "sliding window attention is not supported");
  Decoder decoder = read_decoder(config, config, dtype, 1e-6);
  const auto attention = std::make_shared<Gqa>(read_gqa(config, decoder, {.kv_heads = 0, .rope_theta = 10000}));
  const auto moe = std::make_shared<SparseMoe>(read_moe(config, decoder, {.width = "moe_intermediate_size"}));
  moe->router.normalised = config.boolean("norm_topk_prob", false);
  // The linear layers of a dense MLP are not offered to LoRA: PEFT (0.21, transformers 5) takes the names gate_proj,
  // up_proj and down_proj for this family's experts, so no adapter_config.json can say "the dense layer's".
  const int64_t intermediate = positive_or(config, "intermediate_size", 6144, kMaxWidth);
  const auto mlp = std::make_shared<Mlp>("mlp", decoder.hidden_size, intermediate, /*lora=*/false);
  for (const bool sparse : sparse_layers(config))
    decoder.layers.push_back({attention, sparse ? std::shared_ptr<const Block>(moe) : mlp});
  return decoder;
}

}  // namespace moraine
