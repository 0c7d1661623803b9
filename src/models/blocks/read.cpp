#include "models/blocks/read.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/text.h"
#include "models/config_fields.h"

namespace moraine {
namespace {

void read_rope(const HfConfig& config, const GqaDefaults& defaults, Gqa& attention) {
  HfConfig rope(Json::object(), config.where());
  // What one of them does not say, the other does not change: transformers writes the first, older files have the
  // second.
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!config.has(key)) continue;
    const HfConfig said = config.object(key);
    const std::string type = said.text("rope_type", said.text("type", "default"));
    if (type != "default") {
      throw input_error(config.where(), fmt::format("{}: rope_type {} is not supported", key, quote_text(type)),
                        "remove it: training at the native context length needs no RoPE scaling");
    }
    if (rope.json().empty()) rope = said;
  }
  const bool says_theta = rope.has("rope_theta") || config.has("rope_theta");
  attention.rope_theta = says_theta || !defaults.rope_theta ? rope_theta(config, rope) : *defaults.rope_theta;
  const char* factor = "partial_rotary_factor";
  attention.rotary_dim = rotary_dim(config, attention.head_dim,
                                    rope.number(factor, config.number(factor, defaults.partial_rotary_factor)));
}

}  // namespace

Decoder read_decoder(const HfConfig& config, const HfConfig& text, DtypeChoice dtype, double default_norm_eps) {
  Decoder decoder;
  decoder.vocab_size = positive(text, "vocab_size");
  decoder.hidden_size = width(text, "hidden_size");
  decoder.norm_eps = positive_number(text, "rms_norm_eps", default_norm_eps);
  decoder.tie_word_embeddings = tie_word_embeddings(config);
  decoder.stored.dtype = compute_dtype(config, dtype);
  decoder.stored.quantization = read_fp8_quantization(config);
  require(text, text.text("hidden_act", "silu") == "silu", "hidden_act must be silu");
  decoder.skipped.push_back({"*.rotary_emb.inv_freq", "computed from config.json"});  // in older exports
  return decoder;
}

Gqa read_gqa(const HfConfig& config, const Decoder& decoder, const GqaDefaults& defaults) {
  Gqa attention;
  attention.hidden = decoder.hidden_size;
  attention.norm_eps = decoder.norm_eps;
  attention.norm_kind = decoder.norm_kind;
  attention.heads = count(config, "num_attention_heads");
  attention.kv_heads = defaults.kv_heads
                           ? positive_or(config, "num_key_value_heads",
                                         *defaults.kv_heads == 0 ? attention.heads : *defaults.kv_heads, kMaxCount)
                           : count(config, "num_key_value_heads");
  attention.head_dim = positive_or(
      config, "head_dim", defaults.head_dim == 0 ? attention.hidden / attention.heads : defaults.head_dim, kMaxWidth);
  attention.bias = config.boolean("attention_bias", false);
  require(config, attention.heads % attention.kv_heads == 0, "num_key_value_heads must divide num_attention_heads");
  read_rope(config, defaults, attention);
  return attention;
}

SparseMoe read_moe(const HfConfig& config, const Decoder& decoder, const char* width_key) {
  const char* experts_key = config.has("num_experts") ? "num_experts" : "num_local_experts";
  SparseMoe moe;
  moe.router.num_experts = count(config, experts_key);
  check_experts(config, layer_count(config), experts_key, moe.router.num_experts);
  moe.router.experts_per_token = count(config, "num_experts_per_tok");
  require(config, moe.router.experts_per_token <= moe.router.num_experts,
          fmt::format("num_experts_per_tok {} is more than {} {}", moe.router.experts_per_token, experts_key,
                      moe.router.num_experts));
  moe.experts = {moe.router.num_experts, width(config, width_key), decoder.hidden_size};
  return moe;
}

}  // namespace moraine
