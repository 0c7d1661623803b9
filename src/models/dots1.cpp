// dots.llm1 (transformers' modeling_dots1.py).
#include <algorithm>

#include "models/blocks/read.h"
#include "models/config_fields.h"
#include "models/families.h"

namespace moraine {

Decoder describe_dots1(const HfConfig& config, DtypeChoice dtype) {
  const int64_t layers = layer_count(config);
  const std::vector<std::string> types = config.texts("layer_types");
  const bool slides =
      types.empty() ? config.has("sliding_window") && natural_or(config, "max_window_layers", 62, kMaxLayers) < layers
                    : std::count(types.begin(), types.end(), "full_attention") < layers;
  require(config, !slides, "layers with a sliding window (layer_types, max_window_layers) are not supported");
  Decoder decoder = read_decoder(config, config, dtype, 1e-6);
  const int64_t hidden = decoder.hidden_size;
  const auto attention = std::make_shared<Gqa>(read_gqa(config, decoder, {.kv_heads = 32, .rope_theta = 10000}));
  const auto moe = std::make_shared<SparseMoe>(read_moe(
      config, decoder, {.width = "moe_intermediate_size", .number = {"n_routed_experts", "num_local_experts"}}));
  read_grouped_sigmoid(config, moe->router, /*default_normalised=*/false);
  // PEFT takes gate_proj, up_proj and down_proj for the routed experts (see qwen3_moe.cpp).
  const int64_t shared = moe->experts.intermediate * count(config, "n_shared_experts");
  moe->shared.emplace("mlp.shared_experts", hidden, shared, /*lora=*/false);
  const auto mlp = std::make_shared<Mlp>("mlp", hidden, width(config, "intermediate_size"), /*lora=*/false);
  const int64_t dense = natural_or(config, "first_k_dense_replace", 0, kMaxLayers);
  for (int64_t layer = 0; layer < layers; ++layer)
    decoder.layers.push_back({attention, layer < dense ? std::shared_ptr<const Block>(mlp) : moe});
  return decoder;
}

}  // namespace moraine
