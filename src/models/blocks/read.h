// Blocks from the keys of config.json under which most families write them. Everything throws an input error that names
// the key for what is missing, out of bounds or not supported.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/blocks/gqa.h"
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
// num_attention_heads, num_key_value_heads, head_dim, attention_bias, and RoPE without scaling in any of its spellings.
Gqa read_gqa(const HfConfig& config, const Decoder& decoder, const GqaDefaults& defaults);

// A softmax router, and experts whose width is the key `width_key`; their number is num_experts or num_local_experts.
SparseMoe read_moe(const HfConfig& config, const Decoder& decoder, const char* width_key);

}  // namespace moraine
