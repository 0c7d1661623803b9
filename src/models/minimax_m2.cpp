// MiniMax-M2 to M2.7 (transformers' modeling_minimax_m2.py).
#include "models/blocks/read.h"
#include "models/config_fields.h"
#include "models/families.h"

namespace moraine {

Decoder describe_minimax_m2(const HfConfig& config, DtypeChoice dtype) {
  // transformers reads none of these; releases have no other values.
  require(config, config.boolean("use_qk_norm", true) && config.text("qk_norm_type", "per_layer") == "per_layer",
          "only use_qk_norm with qk_norm_type per_layer is supported");
  require(config, config.boolean("use_routing_bias", true) && config.text("scoring_func", "sigmoid") == "sigmoid",
          "only use_routing_bias with scoring_func sigmoid is supported");
  require(config, config.integer("shared_intermediate_size", 0) == 0,
          "shared experts (shared_intermediate_size) are not supported");
  require(config, config.number("router_jitter_noise", 0) == 0,
          "router_jitter_noise must be 0: noise in training is not supported");
  for (const int64_t type : config.integers("attn_type_list"))
    require(config, type == 1, "attn_type_list: only full attention (1) is supported");
  Decoder decoder = read_decoder(config, config, dtype, 1e-6);
  decoder.stored.names.renamed = {{"mlp", "block_sparse_moe"}};
  decoder.stored.names.gate = "w1";
  decoder.stored.names.up = "w3";
  decoder.stored.names.down = "w2";
  const double head_dim = static_cast<double>(positive_or(config, "head_dim", 128, kMaxWidth));
  const double turned = config.has("rotary_dim") ? static_cast<double>(width(config, "rotary_dim")) / head_dim : 1;
  const auto attention = std::make_shared<Gqa>(
      read_gqa(config, decoder, {.head_dim = 128, .rope_theta = 5e6, .partial_rotary_factor = turned}));
  attention->bias = attention->o_bias = false;  // there is no key for it
  attention->qk_norm = QkNorm::kWidth;
  const auto moe = std::make_shared<SparseMoe>(read_moe(config, decoder, {.width = "intermediate_size"}));
  moe->router.scores = RouterScores::kSigmoid;
  // transformers rounds it to bfloat16 where the model is; stored and served it is in fp32.
  moe->router.correction = "mlp.e_score_correction_bias";
  moe->router.fp32_weights = true;
  decoder.layers.assign(layer_count(config), {attention, moe});
  return decoder;
}

}  // namespace moraine
