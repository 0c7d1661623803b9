#include "text/chat/chat_template.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/path.h"
#include "base/text.h"
#include "text/chat/jinja_chat.h"
#include "text/chat/template_detection.h"
#include "text/chat/tojson.h"

namespace moraine {
namespace {

const std::string kOptions = "data.template_options", kBase = "data.template_options.base";

// The named format, or with auto what the checkpoint's template is: its `template_name`. `have`: the formats that may
// be named at `where`.
CheckpointTemplates find_template(const std::string& name, const std::string& template_name,
                                  const std::filesystem::path& model_folder, const std::string& where,
                                  bool (*have)(const ChatFormat& format) = nullptr) {
  if (name == "auto") return detect_chat_template(model_folder, template_name);
  const bool is_file = name.ends_with(".jinja");
  const ChatFormat* format = is_file ? nullptr : find_chat_format(name);
  const bool is_format = format != nullptr && (have == nullptr || have(*format));
  if (!template_name.empty() && (is_file || is_format)) {
    throw input_error("data.template_name",
                      fmt::format("names one of the checkpoint's own templates, but {} is {}", where, name),
                      "leave one of the two out");
  }
  if (is_file) return {{nullptr, false, read_text_file(expand_home(name, where)), name}};
  if (is_format) return {{format, true}};
  std::vector<std::string> names = chat_format_names(have);
  names.insert(names.begin(), "auto");
  throw input_error(where, fmt::format("unknown template '{}'", name), "available: " + join_words(names));
}

std::string takes(const ChatFormat& format) { return format.name + " takes " + join_words(format.options); }

// A template with its options, whether it is one of the table or rendered by itself.
struct OneTemplate {
  const ChatFormat* format = nullptr;
  std::unique_ptr<ChatEncoder> encoder = nullptr;
  std::shared_ptr<const ChatFormat> own = nullptr;
  std::string scaffold = "";
};

// `known`: which options there are, as a hint.
OneTemplate make_one(const KnownTemplate& found, Json options, const std::filesystem::path& model_folder,
                     const std::string& known = "") {
  if (found.format == nullptr) {
    JinjaChat chat = make_jinja_chat(found.jinja, found.where, OrderedJson::parse(options.dump()), model_folder);
    auto own = std::make_shared<ChatFormat>();
    own->name = found.where;
    own->end_of_turn = chat.end_of_turn;
    return {own.get(), std::move(chat.encoder), own, std::move(chat.scaffold)};
  }
  const std::vector<std::string>& keys = found.format->options;
  for (const auto& [key, value] : options.items()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end())
      throw input_error(kOptions, fmt::format("unknown option {}", quoted_for_error(key)),
                        known.empty() ? takes(*found.format) : known);
  }
  if (found.format->from_checkpoint != nullptr) {
    const Json own = found.format->from_checkpoint(model_folder);
    for (const auto& [key, value] : own.items()) options.emplace(key, value);
  }
  return {found.format, found.format->make(options, found.thinks_by_default), nullptr,
          fmt::format("{}", fmt::join(found.format->turn_tokens, ""))};
}

// Rows with tools by one template, the others by another.
class ByTools final : public ChatEncoder {
 public:
  ByTools(std::unique_ptr<ChatEncoder> without, std::unique_ptr<ChatEncoder> with)
      : without_(std::move(without)), with_(std::move(with)) {}

  ChatText training_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return by(tools).training_text(messages, tools);
  }
  ChatText turn_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return by(tools).turn_text(messages, tools);
  }
  std::string inference_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return by(tools).inference_text(messages, tools);
  }
  std::string generation_prompt(const OrderedJson& messages, const OrderedJson& tools) const override {
    return by(tools).generation_prompt(messages, tools);
  }

 private:
  const ChatEncoder& by(const OrderedJson& tools) const { return tools.is_null() ? *without_ : *with_; }

  std::unique_ptr<ChatEncoder> without_, with_;
};

// A format that wraps another, whose options it takes besides its own.
std::unique_ptr<ChatTemplate> make_wrapped(const ChatFormat& format, Json options, const std::string& template_name,
                                           const std::filesystem::path& model_folder) {
  std::string name = "auto";
  if (options.contains("base")) {
    if (!options["base"].is_string()) throw input_error(kBase, "not the name of a template");
    name = options["base"].get<std::string>();
    options.erase("base");
  }
  KnownTemplate base;
  try {
    base = find_template(name, template_name, model_folder, kBase, has_encoder).always;
  } catch (const Error& error) {
    if (name != "auto" || !template_name.empty()) throw;
    throw input_error(error.where, error.message,
                      fmt::format("say which format renders {}'s messages: {}", format.name, kBase));
  }
  if (base.format != nullptr) {
    for (const auto& [key, value] : base.format->when_wrapped.items()) options.emplace(key, value);
  }
  OneTemplate made =
      make_one(base, options, model_folder,
               base.format == nullptr ? "" : fmt::format("{}; its base {}", takes(format), takes(*base.format)));
  return std::make_unique<ChatTemplate>(
      ChatTemplate{format, *made.format, format.wrap(std::move(made.encoder)), made.own, std::move(made.scaffold)});
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

std::unique_ptr<ChatTemplate> make_chat_template(const std::string& name, const Json& given,
                                                 const std::filesystem::path& model_folder,
                                                 const std::string& template_name) {
  const Json options = given.is_null() ? Json::object() : given;
  if (!options.is_object()) throw input_error(kOptions, "not a mapping");
  const ChatFormat* named = find_chat_format(name);
  if (named != nullptr && named->wrap != nullptr) return make_wrapped(*named, options, template_name, model_folder);
  const CheckpointTemplates found = find_template(name, template_name, model_folder, "data.template");
  OneTemplate made = make_one(found.always, options, model_folder);
  if (found.with_tools) {
    OneTemplate with_tools = make_one(*found.with_tools, options, model_folder);
    if (with_tools.format->end_of_turn != made.format->end_of_turn) {
      throw input_error(found.with_tools->where,
                        "its templates tool_use and default end the assistant's turns with different tokens",
                        "say which renders all rows: data.template_name: default or tool_use");
    }
    made.encoder = std::make_unique<ByTools>(std::move(made.encoder), std::move(with_tools.encoder));
    made.scaffold += with_tools.scaffold;
  }
  return std::make_unique<ChatTemplate>(
      ChatTemplate{*made.format, *made.format, std::move(made.encoder), made.own, std::move(made.scaffold)});
}

void check_turn_tokens(const ChatTemplate& chat, const Tokenizer& tokenizer) {
  for (const std::string& token : chat.turns.turn_tokens) {
    const size_t pieces = tokenizer.encode(token).ids.size();
    if (pieces == 1) continue;
    throw input_error(
        "tokenizer.json",
        fmt::format("{} is {} tokens; the chat format {} needs it to be one", token, pieces, chat.format.name),
        "it belongs in added_tokens, or data.template is not this model's");
  }
}

std::vector<int64_t> control_tokens(const ChatTemplate& chat, const Tokenizer& tokenizer) {
  return tokenizer.added_tokens_in(chat.scaffold);
}

TokenizedChat tokenize_chat(const ChatText& chat, const Tokenizer& tokenizer, LossOn loss_on,
                            const std::vector<int64_t>& controls) {
  Encoding encoding = tokenizer.encode(chat.text, {chat.foreign, controls});
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
