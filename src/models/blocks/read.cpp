#include "models/blocks/read.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "models/config_fields.h"

namespace moraine {
namespace {

// rope_parameters, as transformers writes it, or rope_scaling, as older files have it; an empty object where neither is
// there.
HfConfig rope_object(const HfConfig& config) {
  const char *newer = "rope_parameters", *older = "rope_scaling";
  if (!config.has(newer) && !config.has(older)) return HfConfig(Json::object(), config.where());
  if (!config.has(newer) || !config.has(older)) return config.object(config.has(newer) ? newer : older);
  RopeSpec one, other;
  read_rope_scaling(config, config.object(newer), one);
  read_rope_scaling(config, config.object(older), other);
  require(config, one == other, "rope_parameters and rope_scaling say different things");
  const HfConfig said = config.object(newer);
  return said.json().empty() ? config.object(older) : said;
}

}  // namespace

RopeSpec read_rope(const HfConfig& config, int64_t head_dim, std::optional<double> default_theta,
                   double default_partial_factor) {
  const HfConfig said = rope_object(config);
  RopeSpec rope;
  read_rope_scaling(config, said, rope);
  const bool says_theta = said.has("rope_theta") || config.has("rope_theta");
  rope.rope_theta = says_theta || !default_theta ? rope_theta(config, said) : *default_theta;
  const char* factor = "partial_rotary_factor";
  rope.dim = rotary_dim(config, head_dim, said.number(factor, config.number(factor, default_partial_factor)));
  return rope;
}

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
  attention.bias = attention.o_bias = config.boolean("attention_bias", false);
  require(config, attention.heads % attention.kv_heads == 0, "num_key_value_heads must divide num_attention_heads");
  attention.rope = read_rope(config, attention.head_dim, defaults.rope_theta, defaults.partial_rotary_factor);
  return attention;
}

SparseMoe read_moe(const HfConfig& config, const Decoder& decoder, const MoeKeys& keys) {
  const auto is_there = [&](const std::string& key) { return config.has(key); };
  const auto first = std::find_if(keys.number.begin(), keys.number.end(), is_there);
  const std::string& experts_key = first == keys.number.end() ? keys.number.back() : *first;
  SparseMoe moe;
  moe.router.num_experts = count(config, experts_key);
  check_experts(config, layer_count(config), experts_key, moe.router.num_experts);
  moe.router.experts_per_token = count(config, keys.per_token);
  require(config, moe.router.experts_per_token <= moe.router.num_experts,
          fmt::format("{} {} is more than {} {}", keys.per_token, moe.router.experts_per_token, experts_key,
                      moe.router.num_experts));
  moe.experts = {moe.router.num_experts, width(config, keys.width), decoder.hidden_size};
  return moe;
}

void read_grouped_sigmoid(const HfConfig& config, Router& router, bool default_normalised) {
  router.scores = RouterScores::kSigmoid;
  router.correction = "mlp.gate.e_score_correction_bias";
  router.groups = positive_or(config, "n_group", 1, kMaxCount);
  router.groups_kept = positive_or(config, "topk_group", 1, kMaxCount);
  router.normalised = config.boolean("norm_topk_prob", default_normalised);
  router.sum_epsilon = 1e-20;
  router.scale = positive_number(config, "routed_scaling_factor", 1);
  router.fp32_logits = router.fp32_weights = true;
  router.has_loss = false;
  require(config, router.num_experts % router.groups == 0, "n_group must divide the number of experts");
  require(config, router.groups_kept <= router.groups, "topk_group is more than n_group");
  const int64_t size = router.num_experts / router.groups;
  require(config, router.groups == 1 || size >= 2, "n_group leaves groups of one expert");
  require(config, router.experts_per_token <= size * router.groups_kept,
          fmt::format("topk_group {} of n_group {} groups hold {} experts, fewer than a token takes",
                      router.groups_kept, router.groups, size * router.groups_kept));
}

std::vector<bool> sparse_layers(const HfConfig& config) {
  const int64_t step = positive_or(config, "decoder_sparse_step", 1);
  const std::vector<int64_t> dense = config.integers("mlp_only_layers");
  std::vector<bool> sparse;
  for (int64_t layer = 0; layer < layer_count(config); ++layer)
    sparse.push_back((layer + 1) % step == 0 && std::find(dense.begin(), dense.end(), layer) == dense.end());
  return sparse;
}

void skip_prediction_layers(const HfConfig& config, Decoder& decoder) {
  const int64_t number = natural_or(config, "num_nextn_predict_layers", 1, kMaxLayers);
  for (int64_t layer = layer_count(config); layer < layer_count(config) + number; ++layer)
    decoder.skipped.push_back({fmt::format("model.layers.{}.", layer), "multi-token prediction"});
}

}  // namespace moraine
