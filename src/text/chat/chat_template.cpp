#include "text/chat/chat_template.h"

#include <fmt/format.h>

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

// The named format, or with auto what the checkpoint's template is. `have`: the formats that may be named at `where`.
KnownTemplate find_template(const std::string& name, const std::filesystem::path& model_folder,
                            const std::string& where, bool (*have)(const ChatFormat& format) = nullptr) {
  if (name == "auto") return detect_chat_template(model_folder);
  if (name.ends_with(".jinja")) return {nullptr, false, read_text_file(expand_home(name, where)), name};
  const ChatFormat* format = find_chat_format(name);
  if (format != nullptr && (have == nullptr || have(*format))) return {format, true};
  std::vector<std::string> names = chat_format_names(have);
  names.insert(names.begin(), "auto");
  throw input_error(where, fmt::format("unknown template '{}'", name), "available: " + join_words(names));
}

std::string takes(const ChatFormat& format) { return format.name + " takes " + join_words(format.options); }

// A template that is none of the table, rendered by itself.
struct OwnTemplate {
  std::shared_ptr<ChatFormat> format;
  std::unique_ptr<ChatEncoder> encoder;
};

OwnTemplate make_own(const KnownTemplate& found, const Json& options, const std::filesystem::path& model_folder) {
  JinjaChat chat = make_jinja_chat(found.jinja, found.where, OrderedJson::parse(options.dump()), model_folder);
  OwnTemplate made{std::make_shared<ChatFormat>(), std::move(chat.encoder)};
  made.format->name = found.where;
  made.format->end_of_turn = chat.end_of_turn;
  return made;
}

// `known`: which options there are, as a hint.
std::unique_ptr<ChatEncoder> make_encoder(const KnownTemplate& found, Json options, const std::string& known,
                                          const std::filesystem::path& model_folder) {
  const std::vector<std::string>& keys = found.format->options;
  for (const auto& [key, value] : options.items()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end())
      throw input_error(kOptions, fmt::format("unknown option {}", quoted_for_error(key)), known);
  }
  if (found.format->from_checkpoint != nullptr) {
    const Json own = found.format->from_checkpoint(model_folder);
    for (const auto& [key, value] : own.items()) options.emplace(key, value);
  }
  return found.format->make(options, found.thinks_by_default);
}

// A format that wraps another, whose options it takes besides its own.
std::unique_ptr<ChatTemplate> make_wrapped(const ChatFormat& format, Json options,
                                           const std::filesystem::path& model_folder) {
  std::string name = "auto";
  if (options.contains("base")) {
    if (!options["base"].is_string()) throw input_error(kBase, "not the name of a template");
    name = options["base"].get<std::string>();
    options.erase("base");
  }
  KnownTemplate base;
  try {
    base = find_template(name, model_folder, kBase, has_encoder);
  } catch (const Error& error) {
    if (name != "auto") throw;
    throw input_error(error.where, error.message,
                      fmt::format("say which format renders {}'s messages: {}", format.name, kBase));
  }
  if (base.format == nullptr) {
    OwnTemplate own = make_own(base, options, model_folder);
    return std::make_unique<ChatTemplate>(
        ChatTemplate{format, *own.format, format.wrap(std::move(own.encoder)), own.format});
  }
  for (const auto& [key, value] : base.format->when_wrapped.items()) options.emplace(key, value);
  const std::string known = fmt::format("{}; its base {}", takes(format), takes(*base.format));
  auto encoder = make_encoder(base, options, known, model_folder);
  return std::make_unique<ChatTemplate>(ChatTemplate{format, *base.format, format.wrap(std::move(encoder))});
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
                                                 const std::filesystem::path& model_folder) {
  const Json options = given.is_null() ? Json::object() : given;
  if (!options.is_object()) throw input_error(kOptions, "not a mapping");
  const ChatFormat* named = find_chat_format(name);
  if (named != nullptr && named->wrap != nullptr) return make_wrapped(*named, options, model_folder);
  const KnownTemplate found = find_template(name, model_folder, "data.template");
  if (found.format == nullptr) {
    OwnTemplate own = make_own(found, options, model_folder);
    return std::make_unique<ChatTemplate>(ChatTemplate{*own.format, *own.format, std::move(own.encoder), own.format});
  }
  auto encoder = make_encoder(found, options, takes(*found.format), model_folder);
  return std::make_unique<ChatTemplate>(ChatTemplate{*found.format, *found.format, std::move(encoder)});
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
