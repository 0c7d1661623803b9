#include "models/qwen_fp8.h"

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
    throw input_error(quantization.where(), fmt::format("modules_to_not_convert: {} is not a regular expression", quote_text(entry)));
  }
}

[[noreturn]] void refuse(const HfConfig& quantization, const std::string& what) {
  throw input_error(quantization.where(), what,
                    "Qwen checkpoints can be quantised to FP8 (e4m3) with a scale for each block of 128 × 128; others must be "
                    "dequantised first");
}

void check_text(const HfConfig& quantization, const char* key, const std::string& wanted, const std::string& otherwise) {
  const std::string said = quantization.text(key, otherwise);
  if (said != wanted) refuse(quantization, fmt::format("{} {} is not supported: {}", key, quote_text(said), wanted));
}

}  // namespace

bool QwenFp8::quantises(const std::string& module) const {
  return std::none_of(modules_to_not_convert.begin(), modules_to_not_convert.end(), [&](const std::string& entry) {
    if (module.starts_with(entry) || module.ends_with(entry)) return true;
    return !is_literal(entry) && begins_with_match(module, entry);
  });
}

std::optional<QwenFp8> read_qwen_fp8(const HfConfig& config) {
  const char* key = "quantization_config";
  if (!config.has(key)) return config.has("text_config") ? read_qwen_fp8(config.object("text_config")) : std::nullopt;
  const HfConfig quantization = config.object(key);
  check_text(quantization, "quant_method", "fp8", "");
  check_text(quantization, "fmt", "e4m3", "e4m3");
  check_text(quantization, "activation_scheme", "dynamic", "dynamic");
  check_text(quantization, "scale_fmt", "float", "float");
  const Json& json = quantization.json();
  const auto block = json.find("weight_block_size");
  // Left out it is transformers' default; null means one scale a tensor.
  if (block != json.end() && *block != Json({kQwenFp8Block, kQwenFp8Block}))
    refuse(quantization, fmt::format("weight_block_size {} is not supported: [128, 128]", block->dump(-1, ' ', true)));
  if (!quantization.texts("modules_to_convert").empty())
    refuse(quantization, "modules_to_convert is not supported: no embedding is FP8");
  // transformers reads the second name too.
  const char* spared = quantization.has("modules_to_not_convert") ? "modules_to_not_convert" : "ignored_layers";
  QwenFp8 fp8{quantization.texts(spared)};
  for (const std::string& entry : fp8.modules_to_not_convert) check_expression(quantization, entry);
  return fp8;
}

}  // namespace moraine
