// What the families' readers of config.json share.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "config/choices.h"
#include "config/hf_config.h"
#include "formats/dtype.h"
#include "nn/rope.h"

namespace moraine {

// The dtype of activations. `wanted` as in the recipe: kAuto is what config.json says, float32 where it says
// nothing. Throws an input error for float16.
DType compute_dtype(const HfConfig& config, DtypeChoice wanted);

// Throws an input error that says `what` of the file unless `ok`.
void require(const HfConfig& config, bool ok, const std::string& what);

// The largest numbers that are believed: far above those of any model, and such that the elements of any tensor fit
// into 64 bits and the names of all experts' tensors into memory (image_specs looks at the bytes of all). config.json
// may be anybody's.
inline constexpr int64_t kMaxLayers = 10'000;
inline constexpr int64_t kMaxCount = 1 << 16;         // of experts, heads, groups
inline constexpr int64_t kMaxWidth = 1 << 20;         // of hidden states, of a head, of an expert
inline constexpr int64_t kMaxStreams = 1 << 10;       // of residual streams, whose square and third power are sizes
inline constexpr int64_t kMaxExpertsInAll = 1 << 18;  // layers × experts

// A whole number of at least 1 and at most `most`, by default what fits 31 bits (lengths, a vocabulary). Throws an
// input error that names the key.
int64_t positive(const HfConfig& config, const std::string& key, int64_t most = std::numeric_limits<int32_t>::max());
inline int64_t count(const HfConfig& config, const std::string& key) { return positive(config, key, kMaxCount); }
inline int64_t width(const HfConfig& config, const std::string& key) { return positive(config, key, kMaxWidth); }
// The same for a key that may be missing.
int64_t positive_or(const HfConfig& config, const std::string& key, int64_t otherwise,
                    int64_t most = std::numeric_limits<int32_t>::max());
// The same, but it may be 0.
int64_t natural_or(const HfConfig& config, const std::string& key, int64_t otherwise, int64_t most);
// num_hidden_layers.
int64_t layer_count(const HfConfig& config);
// Throws an input error for more than kMaxExpertsInAll, naming both keys.
void check_experts(const HfConfig& config, int64_t num_layers, const std::string& key, int64_t num_experts);
// A finite number above 0.
double positive_number(const HfConfig& config, const std::string& key, double otherwise);

// sliding_window: `otherwise` where the key is missing, 0 where it is null.
int64_t sliding_window(const HfConfig& config, int64_t otherwise);

// Whether the output head is the embedding: at the top of `config` or, for the text class of a multimodal model, in its
// text_config. Throws an input error where the two disagree: transformers reads the one or the other, by the class.
bool tie_word_embeddings(const HfConfig& config);

// rope_theta in `rope`, an object of `config`, or at the top of `config`. Throws an input error where neither says it.
double rope_theta(const HfConfig& config, const HfConfig& rope);
// What `rope`, an object of `config`, says of scaling (rope_type default | yarn); theta and dim stay as they are.
// Throws an input error for another type and for a YaRN without a factor.
void read_rope_scaling(const HfConfig& config, const HfConfig& rope, RopeSpec& into);
// How many dims of a head RoPE turns: floor(head_dim · partial_rotary_factor), even and at least 2.
int64_t rotary_dim(const HfConfig& config, int64_t head_dim, double partial_rotary_factor);

}  // namespace moraine
