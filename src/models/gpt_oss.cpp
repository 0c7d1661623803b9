// gpt-oss (transformers' modeling_gpt_oss.py).
#include "models/blocks/read.h"
#include "models/config_fields.h"
#include "models/families.h"

namespace moraine {
namespace {

// Without rope_scaling transformers takes the releases' YaRN, not plain RoPE.
HfConfig with_rope(const HfConfig& config) {
  const Json &json = config.json(), scaling = json.value("rope_scaling", Json());
  if (config.has("rope_parameters") || (!scaling.is_null() && !scaling.empty())) return config;
  Json filled = json;
  filled["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 32.0},    {"beta_fast", 32.0},
                            {"beta_slow", 1.0},    {"truncate", false}, {"original_max_position_embeddings", 4096}};
  return {filled, config.where()};
}

// Of each layer, whether its window slides.
std::vector<bool> sliding_layers(const HfConfig& config) {
  const int64_t layers = layer_count(config);
  const std::vector<std::string> types = config.texts("layer_types");
  std::vector<bool> sliding;
  for (int64_t layer = 0; types.empty() && layer < layers; ++layer) sliding.push_back(layer % 2 == 0);
  for (const std::string& type : types) {
    require(config, type == "sliding_attention" || type == "full_attention",
            "layer_types: only sliding_attention and full_attention are supported");
    sliding.push_back(type == "sliding_attention");
  }
  require(config, static_cast<int64_t>(sliding.size()) == layers, "layer_types must name a type for each layer");
  return sliding;
}

}  // namespace

Decoder describe_gpt_oss(const HfConfig& config, DtypeChoice dtype) {
  // transformers has the number in its code.
  require(config, config.number("swiglu_limit", 7) == 7, "swiglu_limit must be 7");
  Decoder decoder = read_decoder(config, config, dtype, 1e-5, read_mxfp4_quantization);
  decoder.norm_kind = NormKind::kRoundedOnce;
  const auto full = std::make_shared<Gqa>(
      read_gqa(with_rope(config), decoder, {.kv_heads = 8, .head_dim = 64, .rope_theta = 150000}));
  full->bias = full->o_bias = config.boolean("attention_bias", true);
  full->qk_norm = QkNorm::kNone;
  full->sinks = true;
  const auto sliding = std::make_shared<Gqa>(*full);
  sliding->window = sliding_window(config, 128);
  const auto moe = std::make_shared<SparseMoe>(read_moe(config, decoder, {.width = "intermediate_size"}));
  moe->router.name = "mlp.router";
  moe->router.bias = true;
  moe->router.scores = RouterScores::kLogits;
  moe->experts.limit = 7;
  moe->experts.options = {.bias = true, .transposed = true};
  for (const bool slides : sliding_layers(config)) {
    require(config, !slides || sliding->window > 0, "sliding_window is null, but layer_types has sliding_attention");
    decoder.layers.push_back({slides ? sliding : full, moe});
  }
  return decoder;
}

}  // namespace moraine
