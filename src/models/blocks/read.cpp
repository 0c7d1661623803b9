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

// Of each layer, whether it has experts: mlp_layer_types, or all but the first first_k_dense_replace.
std::vector<bool> layers_after_dense(const HfConfig& config) {
  const int64_t layers = layer_count(config);
  const int64_t dense = natural_or(config, "first_k_dense_replace", 1, kMaxLayers);
  std::vector<bool> sparse;
  for (int64_t layer = 0; layer < layers; ++layer) sparse.push_back(layer >= dense);
  if (!config.has("mlp_layer_types")) return sparse;
  std::vector<bool> said;
  for (const std::string& type : config.texts("mlp_layer_types")) {
    require(config, type == "dense" || type == "sparse",
            fmt::format("mlp_layer_types: {} is neither dense nor sparse", quote_text(type)));
    said.push_back(type == "sparse");
  }
  require(config, static_cast<int64_t>(said.size()) == layers,
          fmt::format("mlp_layer_types has {} entries for {} layers", said.size(), layers));
  require(config, !config.has("first_k_dense_replace") || said == sparse,
          "mlp_layer_types and first_k_dense_replace say different things");
  return said;
}

}  // namespace

RopeSpec read_rope(const HfConfig& config, int64_t head_dim, std::optional<double> default_theta,
                   double default_partial_factor) {
  const HfConfig said = rope_object(config);
  RopeSpec rope;
  const bool says_theta = said.has("rope_theta") || config.has("rope_theta");
  rope.rope_theta = says_theta || !default_theta ? rope_theta(config, said) : *default_theta;
  const char* factor = "partial_rotary_factor";
  rope.dim = rotary_dim(config, head_dim, said.number(factor, config.number(factor, default_partial_factor)));
  read_rope_scaling(config, said, rope);
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

Mla read_mla(const HfConfig& config, const Decoder& decoder) {
  Mla attention;
  attention.hidden = decoder.hidden_size;
  attention.heads = count(config, "num_attention_heads");
  attention.q_rank = config.has("q_lora_rank") ? width(config, "q_lora_rank") : 0;
  attention.kv_rank = width(config, "kv_lora_rank");
  attention.nope_dim = width(config, "qk_nope_head_dim");
  attention.value_dim = width(config, "v_head_dim");
  attention.bias = config.boolean("attention_bias", false);
  attention.rope_interleaved = config.boolean("rope_interleave", true);
  const int64_t turned = width(config, "qk_rope_head_dim");
  attention.rope = read_rope(config, turned, 10000, 1);
  require(config, attention.rope.dim == turned, "partial_rotary_factor must be 1: qk_rope_head_dim says what turns");
  require(config, config.integer("num_key_value_heads", attention.heads) == attention.heads,
          "num_key_value_heads must be num_attention_heads: latent attention has a key for each query");
  require(config, attention.value_dim <= attention.nope_dim + turned,
          "v_head_dim is more than qk_nope_head_dim + qk_rope_head_dim: wider values are not supported");
  require(config, config.number("attention_dropout", 0) == 0, "attention_dropout must be 0");
  return attention;
}

std::vector<std::shared_ptr<const Block>> read_deepseek_moe(const HfConfig& config, const Decoder& decoder) {
  const auto only = [&](const char* key, const char* word) {
    require(config, config.text(key, word) == word, fmt::format("{} must be {}", key, word));
  };
  only("scoring_func", "sigmoid");
  only("topk_method", "noaux_tc");
  require(config, config.integer("moe_layer_freq", 1) == 1, "moe_layer_freq must be 1: transformers does not read it");
  const auto moe = std::make_shared<SparseMoe>(read_moe(
      config, decoder, {.width = "moe_intermediate_size", .number = {"n_routed_experts", "num_local_experts"}}));
  read_grouped_sigmoid(config, moe->router);
  // PEFT takes gate_proj, up_proj and down_proj for the routed experts (see qwen3_moe.cpp).
  const int64_t shared = moe->experts.intermediate * positive_or(config, "n_shared_experts", 1, kMaxCount);
  moe->shared.emplace("mlp.shared_experts", decoder.hidden_size, shared, /*lora=*/false);
  const auto mlp =
      std::make_shared<Mlp>("mlp", decoder.hidden_size, width(config, "intermediate_size"), /*lora=*/false);
  std::vector<std::shared_ptr<const Block>> blocks;
  for (const bool sparse : layers_after_dense(config))
    blocks.push_back(sparse ? std::shared_ptr<const Block>(moe) : mlp);
  return blocks;
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
