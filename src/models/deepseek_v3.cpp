// DeepSeek-V3, R1 and V3.1, and what is built alike: Moonlight, Kimi-K2 (transformers' modeling_deepseek_v3.py).
#include "models/blocks/read.h"
#include "models/families.h"

namespace moraine {

Decoder describe_deepseek_v3(const HfConfig& config, DtypeChoice dtype) {
  // transformers' defaults of these are the sizes of DeepSeek-V3 itself; in another model's file they would be wrong.
  for (const char* key : {"n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"}) config.integer(key);
  config.number("routed_scaling_factor");
  Decoder decoder = read_decoder(config, config, dtype, 1e-6);
  skip_prediction_layers(config, decoder);
  if (std::optional<Quantization>& fp8 = decoder.stored.quantization) {  // scales are F32 where no checkpoint says it
    fp8->fp8.scales = DType::kF32;
    fp8->linear = fp8->experts = fp8->fp8;
  }
  const auto attention = std::make_shared<Mla>(read_mla(config, decoder));
  for (const auto& block : read_deepseek_moe(config, decoder)) decoder.layers.push_back({attention, block});
  return decoder;
}

}  // namespace moraine
