#include "data/chat_template.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "data/deepseek_v4_chat.h"
#include "data/qwen3_5_chat.h"
#include "data/qwen_chat.h"
#include "data/react_chat.h"
#include "data/template_detection.h"

namespace moraine {
namespace {

const std::vector<std::string> kTemplates{"auto", "qwen3", "qwen3_instruct_2507", "qwen3_5", "deepseek_v4"};
const std::string kReact = "react";  // turns messages into plain ones, for one of kTemplates to render

void check_name(const std::string& name, const std::vector<std::string>& known, const std::string& where) {
  if (std::find(known.begin(), known.end(), name) != known.end()) return;
  throw input_error(where, fmt::format("unknown template '{}'", name), "available: " + join_words(known));
}

// `thinks_by_default`: without the option.
bool read_enable_thinking(const std::string& name, const Json& options, bool thinks_by_default) {
  const std::string where = "data.template_options";
  const bool thinks = name == "qwen3" || name == "qwen3_5";
  if (!options.is_object() && !options.is_null()) throw input_error(where, "not a mapping");
  bool enable_thinking = thinks && thinks_by_default;
  for (const auto& [key, value] : options.items()) {
    if (key != "enable_thinking") {
      throw input_error(where, fmt::format("unknown option '{}'", key), name + " takes enable_thinking");
    }
    if (!value.is_boolean()) throw input_error(where + "." + key, "not true or false");
    enable_thinking = value.get<bool>();
  }
  if (enable_thinking && !thinks) {
    throw input_error(where + ".enable_thinking", fmt::format("{} has no thinking", name),
                      "leave it out, or use qwen3 or qwen3_5");
  }
  return enable_thinking;
}

std::unique_ptr<ChatTemplate> make_encoder(const KnownTemplate& known, const Json& options) {
  if (known.format == "deepseek_v4") return make_deepseek_v4_chat(read_deepseek_v4_options(options));
  const bool enable_thinking = read_enable_thinking(known.format, options, known.thinks_by_default);
  if (known.format == "qwen3_instruct_2507") return make_qwen3_chat(QwenThinking::kNone);
  if (known.format == "qwen3_5") return make_qwen3_5_chat(enable_thinking ? QwenThinking::kOn : QwenThinking::kOff);
  MORAINE_ASSERT(known.format == "qwen3", "a template without an encoder");
  return make_qwen3_chat(enable_thinking ? QwenThinking::kOn : QwenThinking::kOff);
}

KnownTemplate find_template(const std::string& name, const std::filesystem::path& model_folder) {
  return name == "auto" ? detect_chat_template(model_folder) : KnownTemplate{name, true};
}

// react's own option is `base`; the others are its base's. On deepseek_v4 drop_thinking is false unless it is given:
// there each Observation is a user's turn and no tools are seen, so that only the final answer would be trained.
std::unique_ptr<ChatTemplate> make_react(Json options, const std::filesystem::path& model_folder) {
  const std::string where = "data.template_options", where_base = where + ".base";
  if (!options.is_object() && !options.is_null()) throw input_error(where, "not a mapping");
  std::string base = "auto";
  if (options.contains("base")) {
    if (!options["base"].is_string()) throw input_error(where_base, "not the name of a template");
    base = options["base"].get<std::string>();
    options.erase("base");
  }
  check_name(base, kTemplates, where_base);
  KnownTemplate known;
  try {
    known = find_template(base, model_folder);
  } catch (const Error& error) {
    throw input_error(error.where, error.message, "say which format renders react's messages: " + where_base);
  }
  if (known.format == "deepseek_v4" && !options.contains("drop_thinking")) options["drop_thinking"] = false;
  try {
    return make_react_chat(make_encoder(known, options));
  } catch (const Error& error) {
    const bool lists_options = error.where == where && error.hint.find(" takes ") != error.hint.npos;
    if (!lists_options) throw;
    throw input_error(error.where, error.message, "react takes base; its base " + error.hint);
  }
}

// Calls `use` with the index of each token that holds a byte of one of the ranges [first, last), which come in order as
// tokens do.
template <typename Range, typename Use>
void for_tokens_of(Range first, Range last, const Encoding& encoding, const Use& use) {
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    // The first range that ends behind the token's begin is the only candidate.
    const auto [begin, end] = encoding.offsets[i];
    while (first != last && first->second <= begin) ++first;
    if (first == last) return;
    if (end > first->first) use(i);
  }
}

}  // namespace

std::unique_ptr<ChatTemplate> make_chat_template(const std::string& name, const Json& options,
                                                 const std::filesystem::path& model_folder) {
  std::vector<std::string> known = kTemplates;
  known.push_back(kReact);
  check_name(name, known, "data.template");
  return name == kReact ? make_react(options, model_folder) : make_encoder(find_template(name, model_folder), options);
}

void check_turn_tokens(const ChatTemplate& chat, const Tokenizer& tokenizer) {
  for (const std::string& token : chat.turn_tokens()) {
    const size_t pieces = tokenizer.encode(token).ids.size();
    if (pieces == 1) continue;
    throw input_error("tokenizer.json", fmt::format("{} is {} tokens; the chat format {} needs it to be one", token, pieces, chat.name()),
                      "it belongs in added_tokens, or data.template is not this model's");
  }
}

TokenizedChat tokenize_chat(const ChatText& chat, const Tokenizer& tokenizer, LossOn loss_on) {
  Encoding encoding = tokenizer.encode(chat.text);
  MORAINE_ASSERT(encoding.ids.size() == encoding.offsets.size(), "an offset for each id");
  TokenizedChat result;
  result.loss_mask.assign(encoding.ids.size(), loss_on == LossOn::kAll ? 1 : 0);
  if (loss_on != LossOn::kAll && !chat.trained.empty()) {
    const auto first = loss_on == LossOn::kLast ? std::prev(chat.trained.end()) : chat.trained.begin();
    for_tokens_of(first, chat.trained.end(), encoding, [&](size_t i) { result.loss_mask[i] = 1; });
  }
  for_tokens_of(chat.withheld.begin(), chat.withheld.end(), encoding, [&](size_t i) { result.loss_mask[i] = 0; });
  result.ids = std::move(encoding.ids);
  return result;
}

}  // namespace moraine
