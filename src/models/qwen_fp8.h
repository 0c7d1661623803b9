// The FP8 releases of the Qwen families: a linear layer's weight in F8_E4M3 and, for each block of 128 × 128 of its elements, a factor in
// a tensor X.weight_scale_inv beside X.weight. value = code × factor.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/hf_config.h"
#include "load/dequantize.h"
#include "nn/quantized_weight.h"

namespace moraine {

// Both sides of a block; the last block of a row or column of them may be cut off.
inline constexpr int64_t kQwenFp8Block = kScaleInvBlock;

// What quantization_config says where no checkpoint says it.
struct QwenFp8 {
  std::vector<std::string> modules_to_not_convert;

  // Whether the linear layer `module` ("model.layers.3.self_attn.q_proj", as its weight is called in the files) is quantised: transformers'
  // rule, by which an entry spares modules whose names begin or end with it, or begin with what it matches as a regular expression.
  bool quantises(const std::string& module) const;

  friend bool operator==(const QwenFp8&, const QwenFp8&) = default;
};

// quantization_config, at the top of config.json or in text_config; nullopt without it. Throws an input error that names the key for every
// other way of quantising.
std::optional<QwenFp8> read_qwen_fp8(const HfConfig& config);

// The blocks of a slot that holds `matrices` stored matrices of each expert, or of a linear layer, one below another.
inline ScaleBlocks qwen_fp8_blocks(int64_t matrices = 1) { return {kQwenFp8Block, kQwenFp8Block, matrices}; }

}  // namespace moraine
