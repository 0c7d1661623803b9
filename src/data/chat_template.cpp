#include "data/chat_template.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "data/deepseek_v4_chat.h"
#include "data/qwen_chat.h"
#include "data/template_detection.h"

namespace moraine {
namespace {

const std::vector<std::string> kTemplates{"auto", "qwen3", "qwen3_instruct_2507", "deepseek_v4"};
// Formats that the design names and a later version encodes.
const std::vector<std::string> kNotBuiltYet{"qwen3_5", "react"};

void check_name(const std::string& name) {
  if (std::find(kTemplates.begin(), kTemplates.end(), name) != kTemplates.end()) return;
  const std::string available = "available: " + join_words(kTemplates);
  if (std::find(kNotBuiltYet.begin(), kNotBuiltYet.end(), name) != kNotBuiltYet.end()) {
    throw input_error("data.template", fmt::format("'{}' is not built yet", name), available);
  }
  throw input_error("data.template", fmt::format("unknown template '{}'", name), available);
}

bool read_enable_thinking(const std::string& name, const Json& options) {
  const std::string where = "data.template_options";
  const bool thinks = name == "qwen3";
  if (!options.is_object() && !options.is_null()) throw input_error(where, "not a mapping");
  bool enable_thinking = thinks;
  for (const auto& [key, value] : options.items()) {
    if (key != "enable_thinking") {
      throw input_error(where, fmt::format("unknown option '{}'", key), name + " takes enable_thinking");
    }
    if (!value.is_boolean()) throw input_error(where + "." + key, "not true or false");
    enable_thinking = value.get<bool>();
  }
  if (enable_thinking && !thinks) {
    throw input_error(where + ".enable_thinking", fmt::format("{} has no thinking", name),
                      "leave it out, or use qwen3");
  }
  return enable_thinking;
}

}  // namespace

std::unique_ptr<ChatTemplate> make_chat_template(const std::string& name, const Json& options,
                                                 const std::filesystem::path& model_folder) {
  check_name(name);
  const std::string found = name == "auto" ? detect_chat_template(model_folder) : name;
  if (found == "deepseek_v4") return make_deepseek_v4_chat(read_deepseek_v4_options(options));
  const bool enable_thinking = read_enable_thinking(found, options);
  if (found == "qwen3_instruct_2507") return make_qwen3_chat(QwenThinking::kNone);
  MORAINE_ASSERT(found == "qwen3", "a template without an encoder");
  return make_qwen3_chat(enable_thinking ? QwenThinking::kOn : QwenThinking::kOff);
}

TokenizedChat tokenize_chat(const ChatText& chat, const Tokenizer& tokenizer, LossOn loss_on) {
  Encoding encoding = tokenizer.encode(chat.text);
  MORAINE_ASSERT(encoding.ids.size() == encoding.offsets.size(), "an offset for each id");
  TokenizedChat result;
  result.loss_mask.assign(encoding.ids.size(), loss_on == LossOn::kAll ? 1 : 0);
  if (loss_on != LossOn::kAll && !chat.trained.empty()) {
    // Ranges and tokens both come in order: the first range that ends behind the token's begin is the only candidate.
    auto range = loss_on == LossOn::kLast ? std::prev(chat.trained.end()) : chat.trained.begin();
    for (size_t i = 0; i < encoding.ids.size(); ++i) {
      const auto [begin, end] = encoding.offsets[i];
      while (range != chat.trained.end() && range->second <= begin) ++range;
      if (range == chat.trained.end()) break;
      result.loss_mask[i] = end > range->first;
    }
  }
  result.ids = std::move(encoding.ids);
  return result;
}

}  // namespace moraine
