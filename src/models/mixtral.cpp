// Mixtral (transformers' modeling_mixtral.py).
#include "models/blocks/read.h"
#include "models/config_fields.h"
#include "models/families.h"

namespace moraine {

Decoder describe_mixtral(const HfConfig& config, DtypeChoice dtype) {
  require(config, !config.has("sliding_window"),
          "sliding_window: sliding window attention is not supported for Mixtral");
  require(config, config.number("router_jitter_noise", 0) == 0,
          "router_jitter_noise must be 0: noise in training is not supported");
  Decoder decoder = read_decoder(config, config, dtype, 1e-5);
  decoder.stored.names.renamed = {{"mlp", "block_sparse_moe"}};
  decoder.stored.names.gate = "w1";
  decoder.stored.names.up = "w3";
  decoder.stored.names.down = "w2";
  const auto attention = std::make_shared<Gqa>(read_gqa(config, decoder, {.rope_theta = 1e6}));
  attention->bias = attention->o_bias = false;  // there is no key for it
  attention->qk_norm = QkNorm::kNone;
  const auto moe = std::make_shared<SparseMoe>(read_moe(config, decoder, {.width = "intermediate_size"}));
  moe->router.fp32_weights = true;
  decoder.layers.assign(layer_count(config), {attention, moe});
  return decoder;
}

}  // namespace moraine
