// What the families' readers of config.json share.
#pragma once

#include <cstdint>
#include <string>

#include "config/hf_config.h"
#include "formats/dtype.h"

namespace moraine {

// The dtype of activations. `wanted` as in the recipe: auto (what config.json says, float32 where it says nothing) |
// bfloat16 | float32. Throws an input error for float16.
DType compute_dtype(const HfConfig& config, const std::string& wanted);

// Throws an input error that says `what` of the file unless `ok`.
void require(const HfConfig& config, bool ok, const std::string& what);

// A count or a width: at least 1, and small enough that the product of two fits into 64 bits. Throws an input error that
// names the key.
int64_t positive(const HfConfig& config, const std::string& key);
int64_t positive(const HfConfig& config, const std::string& key, int64_t otherwise);
// num_hidden_layers.
int64_t layer_count(const HfConfig& config);
// A finite number above 0.
double positive_number(const HfConfig& config, const std::string& key, double otherwise);

// Whether the output head is the embedding: at the top of `config` or, for the text class of a multimodal model, in its text_config. Throws
// an input error where the two disagree: transformers reads the one or the other, by the class.
bool tie_word_embeddings(const HfConfig& config);

// rope_theta in `rope`, an object of `config`, or at the top of `config`. Throws an input error where neither says it.
double rope_theta(const HfConfig& config, const HfConfig& rope);
// How many dims of a head RoPE turns: floor(head_dim · partial_rotary_factor), even and at least 2.
int64_t rotary_dim(const HfConfig& config, int64_t head_dim, double partial_rotary_factor);

}  // namespace moraine
