// Solar-Open (transformers' modeling_solar_open.py).
#include "models/blocks/read.h"
#include "models/config_fields.h"
#include "models/families.h"

namespace moraine {

Decoder describe_solar_open(const HfConfig& config, DtypeChoice dtype) {
  Decoder decoder = read_decoder(config, config, dtype, 1e-5);
  const auto attention = std::make_shared<Gqa>(read_gqa(config, decoder, {.head_dim = 128, .rope_theta = 1e6}));
  attention->o_bias = false;
  attention->qk_norm = QkNorm::kNone;
  const auto moe = std::make_shared<SparseMoe>(read_moe(
      config, decoder, {.width = "moe_intermediate_size", .number = {"n_routed_experts", "num_local_experts"}}));
  read_grouped_sigmoid(config, moe->router);
  // PEFT takes gate_proj, up_proj and down_proj for the routed experts (see qwen3_moe.cpp).
  const int64_t shared = moe->experts.intermediate * positive_or(config, "n_shared_experts", 1, kMaxCount);
  moe->shared.emplace("mlp.shared_experts", decoder.hidden_size, shared, /*lora=*/false);
  decoder.layers.assign(layer_count(config), {attention, moe});
  return decoder;
}

}  // namespace moraine
