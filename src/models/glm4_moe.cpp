// GLM-4.5, 4.6 and 4.7 (transformers' modeling_glm4_moe.py).
#include "models/blocks/read.h"
#include "models/config_fields.h"
#include "models/families.h"

namespace moraine {

Decoder describe_glm4_moe(const HfConfig& config, DtypeChoice dtype) {
  Decoder decoder = read_decoder(config, config, dtype, 1e-5);
  const int64_t hidden = decoder.hidden_size;
  skip_prediction_layers(config, decoder);
  const auto attention =
      std::make_shared<Gqa>(read_gqa(config, decoder, {.rope_theta = 10000, .partial_rotary_factor = 0.5}));
  attention->o_bias = false;
  attention->qk_norm = config.boolean("use_qk_norm", false) ? QkNorm::kHead : QkNorm::kNone;
  const auto moe = std::make_shared<SparseMoe>(read_moe(
      config, decoder, {.width = "moe_intermediate_size", .number = {"n_routed_experts", "num_local_experts"}}));
  read_grouped_sigmoid(config, moe->router);
  // PEFT takes gate_proj, up_proj and down_proj for the routed experts (see qwen3_moe.cpp).
  const int64_t shared = moe->experts.intermediate * positive_or(config, "n_shared_experts", 1, kMaxCount);
  moe->shared.emplace("mlp.shared_experts", hidden, shared, /*lora=*/false);
  const auto mlp = std::make_shared<Mlp>("mlp", hidden, width(config, "intermediate_size"), /*lora=*/false);
  const int64_t dense = natural_or(config, "first_k_dense_replace", 1, kMaxLayers);
  for (int64_t layer = 0; layer < layer_count(config); ++layer)
    decoder.layers.push_back({attention, layer < dense ? std::shared_ptr<const Block>(mlp) : moe});
  return decoder;
}

}  // namespace moraine
