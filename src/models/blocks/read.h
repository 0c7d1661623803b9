// Blocks from the keys of config.json under which most families write them. Everything throws an input error that names
// the key for what is missing, out of bounds or not supported.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/blocks/gqa.h"
#include "models/blocks/mla.h"
#include "models/blocks/moe.h"
#include "models/decoder.h"

namespace moraine {

// Vocabulary, widths, norm, head, dtypes and quantisation; the layers are left to the description. `text` is the object
// that holds the decoder's keys: `config` itself or its text_config. `dtype` as in the recipe.
Decoder read_decoder(const HfConfig& config, const HfConfig& text, DtypeChoice dtype, double default_norm_eps);

// What transformers takes where a key is missing; nullopt: the key must be there.
struct GqaDefaults {
  std::optional<int64_t> kv_heads = {};  // 0: as many as query heads
  int64_t head_dim = 0;                  // 0: hidden_size / num_attention_heads
  std::optional<double> rope_theta = {};
  double partial_rotary_factor = 1;
};
// RoPE in any of its spellings: rope_parameters or rope_scaling, rope_theta, partial_rotary_factor; plain or with YaRN.
// `default_theta` as in GqaDefaults.
RopeSpec read_rope(const HfConfig& config, int64_t head_dim, std::optional<double> default_theta,
                   double default_partial_factor);
// num_attention_heads, num_key_value_heads, head_dim, attention_bias (of all four projections), and RoPE.
Gqa read_gqa(const HfConfig& config, const Decoder& decoder, const GqaDefaults& defaults);

// The keys of the routed experts. Of `number` the first that is there counts.
struct MoeKeys {
  const char* width;
  std::vector<std::string> number{"num_experts", "num_local_experts"};
  const char* per_token = "num_experts_per_tok";
};
// A softmax router and its experts.
SparseMoe read_moe(const HfConfig& config, const Decoder& decoder, const MoeKeys& keys);
// The router of DeepSeek-V3 (https://arxiv.org/abs/2412.19437, section 2.1.2), which later families have too: sigmoid
// scores, a bias to choose by, n_group groups of which topk_group are kept, norm_topk_prob, routed_scaling_factor.
void read_grouped_sigmoid(const HfConfig& config, Router& router, bool default_normalised = true);
// Latent attention in DeepSeek-V3's words: q_lora_rank (missing: queries without a latent), kv_lora_rank, head widths,
// rope_interleave, attention_bias, and RoPE.
Mla read_mla(const HfConfig& config, const Decoder& decoder);
// DeepSeek-V3's feed-forward blocks: dense where mlp_layer_types or first_k_dense_replace says so, elsewhere experts
// with read_grouped_sigmoid's router and n_shared_experts shared ones.
std::vector<std::shared_ptr<const Block>> read_deepseek_moe(const HfConfig& config, const Decoder& decoder);
// Of each layer, whether it has experts: every decoder_sparse_step-th unless mlp_only_layers lists it.
std::vector<bool> sparse_layers(const HfConfig& config);
// Leaves out the layers after the last, which predict further tokens: num_nextn_predict_layers, by default one.
void skip_prediction_layers(const HfConfig& config, Decoder& decoder);

}  // namespace moraine
