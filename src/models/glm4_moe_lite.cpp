// GLM-4.7-Flash (transformers' modeling_glm4_moe_lite.py): DeepSeek-V3's layers.
#include "models/blocks/read.h"
#include "models/families.h"

namespace moraine {

Decoder describe_glm4_moe_lite(const HfConfig& config, DtypeChoice dtype) {
  config.number("routed_scaling_factor");  // transformers' default is this model's own
  Decoder decoder = read_decoder(config, config, dtype, 1e-5);
  skip_prediction_layers(config, decoder);
  const auto attention = std::make_shared<Mla>(read_mla(config, decoder));
  for (const auto& block : read_deepseek_moe(config, decoder)) decoder.layers.push_back({attention, block});
  return decoder;
}

}  // namespace moraine
