// OLMoE (transformers' modeling_olmoe.py).
#include "models/blocks/read.h"
#include "models/config_fields.h"
#include "models/families.h"

namespace moraine {

Decoder describe_olmoe(const HfConfig& config, DtypeChoice dtype) {
  Decoder decoder = read_decoder(config, config, dtype, 1e-5);
  const auto attention = std::make_shared<Gqa>(read_gqa(config, decoder, {.kv_heads = 0, .rope_theta = 10000}));
  attention->qk_norm = QkNorm::kWidth;
  if (config.has("clip_qkv")) attention->clip = positive_number(config, "clip_qkv", 0);
  const auto moe = std::make_shared<SparseMoe>(read_moe(config, decoder, {.width = "intermediate_size"}));
  moe->router.normalised = config.boolean("norm_topk_prob", false);
  decoder.layers.assign(layer_count(config), {attention, moe});
  return decoder;
}

}  // namespace moraine
