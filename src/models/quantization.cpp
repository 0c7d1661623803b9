#include "models/quantization.h"

#include <fmt/format.h>

#include <algorithm>
#include <regex>

#include "base/error.h"
#include "base/text.h"

namespace moraine {
namespace {

// A dot matches itself here: nothing else stands in its place in a module's name.
bool is_literal(const std::string& entry) { return entry.find_first_of("^$*+?()[]{}|\\") == std::string::npos; }

bool begins_with_match(const std::string& module, const std::string& entry) {
  return std::regex_search(module, std::regex(entry), std::regex_constants::match_continuous);
}

void check_expression(const HfConfig& quantization, const std::string& entry) {
  try {
    if (!is_literal(entry)) std::regex{entry};
  } catch (const std::regex_error&) {
    throw input_error(quantization.where(),
                      fmt::format("modules_to_not_convert: {} is not a regular expression", quote_text(entry)));
  }
}

[[noreturn]] void refuse(const HfConfig& quantization, const std::string& what) {
  throw input_error(quantization.where(), what,
                    "checkpoints of this family can be quantised to FP8 (e4m3) with a scale for each block of 128 × "
                    "128; others must be "
                    "dequantised first");
}

void check_text(const HfConfig& quantization, const char* key, const std::string& wanted,
                const std::string& otherwise) {
  const std::string said = quantization.text(key, otherwise);
  if (said != wanted) refuse(quantization, fmt::format("{} {} is not supported: {}", key, quote_text(said), wanted));
}

void check_side(int64_t length, int64_t block, const char* side, const std::string& tensor) {
  if (length <= block || length % block == 0) return;
  throw input_error(
      tensor, fmt::format("{} {} cannot be cut into blocks of {} that share a scale", length, side, block),
      "quantised weights with a cut-off last block are not supported; convert the checkpoint to bfloat16");
}

}  // namespace

bool Quantization::quantises(const std::string& module) const {
  return std::none_of(modules_to_not_convert.begin(), modules_to_not_convert.end(), [&](const std::string& entry) {
    if (module.starts_with(entry) || module.ends_with(entry)) return true;
    return !is_literal(entry) && begins_with_match(module, entry);
  });
}

std::optional<QuantFormat> Quantization::format_of(const std::vector<std::string>& modules,
                                                   const std::optional<QuantFormat>& implied,
                                                   const StoredDtype& stored) const {
  std::optional<QuantFormat> format;
  if (const std::optional<DType> weight = stored(modules.front() + ".weight")) {
    if (*weight == DType::kF8E4M3) format = fp8;
    if (*weight == DType::kI8) format = fp4;
  } else if (implied && quantises(modules.front())) {
    format = implied;
  }
  if (!format) return std::nullopt;
  const auto scales_of = [&](const std::string& module) {
    return stored(module + scale_suffix).value_or(format->scales);
  };
  // Should releases mix them, no scale is rounded.
  const bool narrow = std::all_of(modules.begin(), modules.end(),
                                  [&](const std::string& module) { return scales_of(module) == narrow_scales; });
  format->scales = narrow ? narrow_scales : DType::kF32;
  return format;
}

void Quantization::check_sides(const QuantFormat& format, int64_t rows, int64_t columns,
                               const std::string& tensor) const {
  if (format.is_fp4() && columns % 2 != 0)
    throw input_error(tensor, fmt::format("an odd number of columns ({}) cannot be stored two a byte", columns));
  if (cut_off_blocks) return;
  check_side(rows, format.block_rows, "rows", tensor);
  check_side(columns, format.block_columns, "columns", tensor);
}

bool Quantization::has_blocks(const std::string& module, const std::string& param, const StoredDtype& stored) const {
  if (!mxfp4) return false;
  return stored(param + kBlocksSuffix) || (!stored(param) && quantises(module));
}

std::optional<Quantization> read_mxfp4_quantization(const HfConfig& config) {
  const char* key = "quantization_config";
  if (!config.has(key)) return std::nullopt;
  const HfConfig quantization = config.object(key);
  const std::string method = quantization.text("quant_method", "");
  if (method != "mxfp4")
    throw input_error(quantization.where(), fmt::format("quant_method {} is not supported: mxfp4", quote_text(method)),
                      "dequantise the checkpoint to bfloat16 first");
  Quantization mxfp4{.scale_suffix = "",
                     .narrow_scales = DType::kF8E8M0,
                     .fp8 = {},
                     .fp4 = {},
                     .mxfp4 = true,
                     .linear = {},
                     .experts = {},
                     .modules_to_not_convert = quantization.texts("modules_to_not_convert")};
  for (const std::string& entry : mxfp4.modules_to_not_convert) check_expression(quantization, entry);
  return mxfp4;
}

std::optional<Quantization> read_fp8_quantization(const HfConfig& config) {
  const char* key = "quantization_config";
  if (!config.has(key))
    return config.has("text_config") ? read_fp8_quantization(config.object("text_config")) : std::nullopt;
  const HfConfig quantization = config.object(key);
  check_text(quantization, "quant_method", "fp8", "");
  // MiniMax-M2 writes the dtype's whole name.
  if (quantization.text("fmt", "") != "float8_e4m3fn") check_text(quantization, "fmt", "e4m3", "e4m3");
  check_text(quantization, "activation_scheme", "dynamic", "dynamic");
  // ue8m0 says that scales are powers of two (DeepSeek-V3.1): whatever dtype they are stored in, codes are multiplied
  // by them.
  if (quantization.text("scale_fmt", "float") != "ue8m0") check_text(quantization, "scale_fmt", "float", "float");
  const Json& json = quantization.json();
  const auto block = json.find("weight_block_size");
  // Left out it is transformers' default; null means one scale per tensor.
  if (block != json.end() && *block != Json({128, 128}))
    refuse(quantization, fmt::format("weight_block_size {} is not supported: [128, 128]", block->dump(-1, ' ', true)));
  if (!quantization.texts("modules_to_convert").empty())
    refuse(quantization, "modules_to_convert is not supported: no embedding is FP8");
  // transformers reads the second name too.
  const char* spared = quantization.has("modules_to_not_convert") ? "modules_to_not_convert" : "ignored_layers";
  const QuantFormat format{DType::kF8E4M3, DType::kBF16, 128, 128};
  Quantization fp8{.scale_suffix = ".weight_scale_inv",
                   .narrow_scales = DType::kBF16,
                   .fp8 = format,
                   .fp4 = {},
                   .linear = format,
                   .experts = format,
                   .modules_to_not_convert = quantization.texts(spared)};
  for (const std::string& entry : fp8.modules_to_not_convert) check_expression(quantization, entry);
  return fp8;
}

}  // namespace moraine
