// ERNIE-4.5's text models with experts (transformers' modeling_ernie4_5_moe.py).
#include "models/blocks/read.h"
#include "models/config_fields.h"
#include "models/families.h"

namespace moraine {

Decoder describe_ernie4_5_moe(const HfConfig& config, DtypeChoice dtype) {
  require(config, !config.boolean("use_bias", false), "use_bias is not supported");
  Decoder decoder = read_decoder(config, config, dtype, 1e-5);
  const int64_t hidden = decoder.hidden_size, last = layer_count(config) - 1;
  decoder.tie_word_embeddings = config.boolean("tie_word_embeddings", true);
  decoder.stored.names.renamed = {{"mlp.gate.moe_statics", "mlp.moe_statics"}};
  for (const char* name : {"mtp_block.", "mtp_emb_norm.", "mtp_hidden_norm.", "mtp_linear_proj."})
    decoder.skipped.push_back({std::string("model.") + name, "multi-token prediction"});
  const auto attention = std::make_shared<Gqa>(read_gqa(config, decoder, {.kv_heads = 4, .rope_theta = 500000}));
  attention->bias = attention->o_bias = false;
  attention->qk_norm = QkNorm::kNone;
  attention->rope_interleaved = attention->rope_in_fp32 = true;
  const auto moe = std::make_shared<SparseMoe>(
      read_moe(config, decoder,
               {.width = "moe_intermediate_size", .number = {"moe_num_experts", "num_experts"}, .per_token = "moe_k"}));
  moe->router.correction = "mlp.gate.moe_statics.e_score_correction_bias";
  moe->router.correction_is_row = true;
  moe->router.kept_in = DType::kF32;
  moe->router.fp32_logits = true;
  moe->router.least_sum = positive_number(config, "moe_norm_min", 1e-12);
  // PEFT takes gate_proj, up_proj and down_proj for the routed experts (see qwen3_moe.cpp).
  if (const int64_t shared = natural_or(config, "moe_num_shared_experts", 2, kMaxCount); shared > 0)
    moe->shared.emplace("mlp.shared_experts", hidden, moe->experts.intermediate * shared, /*lora=*/false);
  const auto mlp = std::make_shared<Mlp>("mlp", hidden, width(config, "intermediate_size"), /*lora=*/false);
  const int64_t first = natural_or(config, "moe_layer_start_index", 1, kMaxLayers);
  // -1: to the last layer.
  const int64_t end = config.integer("moe_layer_end_index", -1) == -1
                          ? last
                          : natural_or(config, "moe_layer_end_index", last, kMaxLayers);
  const int64_t interval = positive_or(config, "moe_layer_interval", 1);
  for (int64_t layer = 0; layer <= last; ++layer) {
    const bool sparse = (layer + 1) % interval == 0 && layer >= first && layer <= end;
    decoder.layers.push_back({attention, sparse ? std::shared_ptr<const Block>(moe) : mlp});
  }
  return decoder;
}

}  // namespace moraine
