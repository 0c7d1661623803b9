// How the weights of a checkpoint are quantised: the dtype of a stored tensor says it, and config.json where no
// checkpoint does.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/hf_config.h"
#include "formats/quant_format.h"
#include "models/model_layout.h"

namespace moraine {

// One family's way: X.weight holds codes where it is F8_E4M3 or I8, and X`scale_suffix` its scales. Or, MXFP4, a
// parameter X of all experts [E, I, O] is stored as its matrices [O, I]: their codes in X_blocks [E, O, I / 32, 16],
// two a byte of U8, and the bits of their scales, in E8M0, in X_scales [E, O, I / 32] of U8.
struct Quantization {
  std::string scale_suffix;
  DType narrow_scales;             // that scales may have; all others are held as F32
  std::optional<QuantFormat> fp8;  // of F8_E4M3, with the dtype of scales where no checkpoint says it
  std::optional<QuantFormat> fp4;  // of I8; nullopt: such tensors are not read
  bool mxfp4 = false;              // whether experts may be stored so
  bool cut_off_blocks = true;      // whether a last block may be smaller than the others
  // What config.json implies of linear layers and of routed experts; nullopt: not quantised.
  std::optional<QuantFormat> linear, experts;
  std::vector<std::string> modules_to_not_convert = {};  // linear layers that are spared

  // Whether the linear layer `module` ("model.layers.3.self_attn.q_proj", as its weight is called in the files) is not
  // spared: transformers' rule, by which an entry spares modules whose names begin or end with it, or begin with what
  // it matches as a regular expression.
  bool quantises(const std::string& module) const;
  // The format of the weights of `modules`, which are quantised alike; nullopt: they are not. `implied`: `linear` or
  // `experts`.
  std::optional<QuantFormat> format_of(const std::vector<std::string>& modules,
                                       const std::optional<QuantFormat>& implied, const StoredDtype& stored) const;
  // Throws an input error that names `tensor` where a matrix [rows, columns] cannot be stored so. A side that is longer
  // than a block but no multiple of it: what its last scale covers is not agreed on in every family (transformers
  // refuses it for DeepSeek-V4).
  void check_sides(const QuantFormat& format, int64_t rows, int64_t columns, const std::string& tensor) const;

  // Whether the parameter `param` (its name in the files) of the experts `module` is stored as MXFP4.
  bool has_blocks(const std::string& module, const std::string& param, const StoredDtype& stored) const;

  friend bool operator==(const Quantization&, const Quantization&) = default;
};

// The FP8 releases in DeepSeek-V3's layout, which Qwen's have too: blocks of 128 × 128, scales in X.weight_scale_inv.
// Reads quantization_config, at the top of config.json or in text_config; nullopt without it. Throws an input error
// that names the key for every other way of quantising.
std::optional<Quantization> read_fp8_quantization(const HfConfig& config);
// gpt-oss's: quant_method mxfp4. nullopt without quantization_config; throws likewise.
std::optional<Quantization> read_mxfp4_quantization(const HfConfig& config);

inline constexpr const char* kBlocksSuffix = "_blocks";  // of MXFP4
inline constexpr const char* kScalesSuffix = "_scales";

}  // namespace moraine
