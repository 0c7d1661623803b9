// moraine tokenize: text and chats as the trainer sees them, and completions taken apart.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/output.h"
#include "base/path.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/show_tokens.h"
#include "cli/tokenize_template.h"
#include "text/chat/answer_reader.h"
#include "text/chat/chat_template.h"
#include "text/rows/data_files.h"
#include "text/rows/dataset.h"
#include "text/rows/row_formats.h"
#include "text/rows/row_reader.h"
#include "text/tokenizer/at_place.h"
#include "text/tokenizer/tokenizer.h"

namespace moraine {
namespace {

// What the last answer of the conversation was an answer to.
OrderedJson before_last_answer(OrderedJson messages) {
  if (messages.size() > 1 && messages.back().value("role", "") == "assistant") messages.erase(messages.size() - 1);
  return messages;
}

void check_tokenize_flags(const CommandArgs& args) {
  const int given = !args.text.empty() + !args.texts.empty() + !args.messages.empty() + !args.parse.empty();
  if (given != 1) {
    throw input_error("tokenize", given == 0 ? "nothing to tokenize" : "more than one input is given",
                      "give one of --text TEXT, --texts FILE.jsonl, --messages FILE.jsonl or --parse FILE.jsonl");
  }
  if (!args.chat_template.empty()) throw input_error("--chat-template", "is for --messages only");
  if (args.messages.empty() && args.parse.empty() && !(args.template_name.empty() && args.template_options.empty())) {
    throw input_error(args.template_name.empty() ? "--template-options" : "--template",
                      "is for --messages and --parse only");
  }
  if (args.parse.empty() && (!args.syntax.empty() || args.parse_without_eos))
    throw input_error(args.syntax.empty() ? "--parse-without-eos" : "--syntax", "is for --parse only");
  if (args.messages.empty() && !args.overrides.empty())
    throw input_error(args.overrides.front(), "recipe keys are for --messages only");
  // The named format alone says how completions are read.
  const bool knows_format = !args.template_name.empty() && args.template_name != "auto";
  if (args.model.empty() && (args.parse.empty() || !knows_format))
    throw input_error("tokenize", "--model DIR is missing", "see moraine tokenize --help");
  if (!is_utf8(args.text)) throw input_error("--text", "is not UTF-8 text");
}

// The recipe's keys, which the library's errors name, as this command's flags.
std::string as_flags(std::string text) {
  for (const auto& [key, flag] : {std::pair<std::string, std::string>{"data.template_options", "--template-options"},
                                  {"data.template: ", "--template "},
                                  {"data.template", "--template"}}) {
    for (size_t at = 0; (at = text.find(key, at)) != text.npos; ++at) {
      if (!text.substr(at + key.size()).starts_with('_')) text.replace(at, key.size(), flag);  // another key
    }
  }
  return text;
}

Json read_options(const CommandArgs& args) {
  return args.template_options.empty() ? Json::object() : parse_json(args.template_options, "--template-options");
}

// The data section that training would have. Rows have any length unless data.max_length is given.
DataConfig read_data_config(const CommandArgs& args) {
  std::vector<std::string> overrides;
  bool is_cut = false;
  for (const std::string& override : args.overrides) {
    if (!override.starts_with("data.")) throw input_error(override, "tokenize takes keys of the section data only");
    for (const auto& [key, flag, is_given] :
         {std::tuple{"data.template=", "--template", !args.template_name.empty()},
          {"data.template_options=", "--template-options", !args.template_options.empty()},
          {"data.train=", "--messages", true},
          {"data.eval=", "--messages", true}}) {
      if (is_given && override.starts_with(key)) throw input_error(override, fmt::format("{} says that already", flag));
    }
    is_cut |= override.starts_with("data.max_length=");
    overrides.push_back(override);
  }
  DataConfig config = recipe_from_overrides(overrides).data;
  if (!is_cut) config.max_length = std::numeric_limits<int64_t>::max();
  if (!args.template_name.empty()) config.chat_template = args.template_name;
  if (!args.template_options.empty()) config.template_options = read_options(args);
  return config;
}

std::unique_ptr<ChatTemplate> open_template(const std::string& name, const Json& options, const std::string& model,
                                            const std::string& template_name = "") {
  try {
    return make_chat_template(name, options, model, template_name);
  } catch (const Error& error) {
    throw input_error(as_flags(error.where), error.message, as_flags(error.hint));
  }
}

// What training checks ids against; a folder without config.json has its tokenizer alone.
int64_t vocab_size_of(const std::filesystem::path& model, const Tokenizer& tokenizer) {
  if (!path_exists(model / "config.json")) return tokenizer.vocab_size();
  const Json config = read_json_file(model / "config.json");
  for (const char* place : {"/vocab_size", "/text_config/vocab_size"}) {
    const Json::json_pointer pointer(place);
    if (config.contains(pointer) && config.at(pointer).is_number_unsigned()) return config.at(pointer).get<int64_t>();
  }
  return tokenizer.vocab_size();
}

// `chat` renders the row; null, and "", when it is no chat.
std::string generation_prompt_of(const PreparedRow& row, const ChatTemplate* chat) {
  if (chat == nullptr) return "";
  return at_place(row.where, [&] {
    return chat->encoder->generation_prompt(before_last_answer(row.chat.messages), row.chat.tools);
  });
}

// Prints rows, as JSON or for a reader.
class RowPrinter {
 public:
  RowPrinter(const Tokenizer& tokenizer, bool json) : tokenizer_(tokenizer), json_(json) {}

  void print_text(const std::string& text) {
    const Encoding encoding = tokenizer_.encode(text);
    if (json_) {
      print_json({{"text", text}, {"ids", encoding.ids}});
    } else {
      print_row(text, encoding, {}, "");
      print_result(fmt::format("ids: {}\n", fmt::join(encoding.ids, " ")));
    }
  }

  // `chat` renders the row; null when it is no chat.
  void print_prepared(const PreparedRow& row, const ChatTemplate* chat) {
    const Sample& sample = row.sample;
    std::vector<uint8_t> loss_mask(sample.labels.size());
    for (size_t i = 0; i < loss_mask.size(); ++i) loss_mask[i] = sample.labels[i] >= 0;
    const char* fate = row.fate == PreparedRow::Fate::kTruncated ? ", truncated"
                       : row.fate == PreparedRow::Fate::kDropped ? ", dropped"
                                                                 : "";
    if (!json_) {
      const auto [text, encoding] = tokens_as_text(sample.input_ids);
      print_row(text, encoding, loss_mask, fate);
      return;
    }
    const bool whole = row.fate != PreparedRow::Fate::kTruncated && !row.text.empty();
    OrderedJson json{{"text", whole ? row.text : tokenizer_.decode(sample.input_ids)},
                     {"ids", sample.input_ids},
                     {"loss_mask", loss_mask}};
    if (chat != nullptr) json["generation_prompt"] = generation_prompt_of(row, chat);
    if (*fate != '\0') json["fate"] = fate + 2;
    print_json(json);
  }

 private:
  // Text made of the tokens themselves, as the model sees it.
  std::pair<std::string, Encoding> tokens_as_text(const std::vector<int64_t>& ids) const {
    std::string text;
    Encoding encoding{ids, {}};
    for (int64_t id : ids) {
      const auto begin = static_cast<uint32_t>(text.size());
      text += tokenizer_.bytes_of(id);
      encoding.offsets.emplace_back(begin, static_cast<uint32_t>(text.size()));
    }
    if (is_utf8(text)) return {text, encoding};
    text.clear();
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto begin = static_cast<uint32_t>(text.size());
      text += tokenizer_.decode(std::span(&ids[i], 1));
      encoding.offsets[i] = {begin, static_cast<uint32_t>(text.size())};
    }
    return {text, encoding};
  }

  void print_row(const std::string& text, const Encoding& encoding, const std::vector<uint8_t>& loss_mask,
                 const std::string& more) {
    // Nothing predicts the first token.
    const auto trained = loss_mask.empty() ? 0 : std::count(loss_mask.begin() + 1, loss_mask.end(), 1);
    const std::string shown = show_tokens(text, encoding, loss_mask, marks_);
    print_result(fmt::format("── row {}: {} tokens{}{} ──\n{}{}", ++rows_, encoding.ids.size(),
                             loss_mask.empty() ? "" : fmt::format(", {} trained", trained), more, shown,
                             shown.ends_with('\n') ? "" : "\n"));
  }

  const Tokenizer& tokenizer_;
  bool json_;
  int64_t rows_ = 0;
  TokenMarks marks_ = marks_for_stdout();
};

// Calls `use` with each row of a JSON lines file and its place, which errors of `use` gain. Rows that cannot be used
// are reported together.
template <typename Use>
void for_each_row(const std::string& file, const Use& use) {
  RowReader reader(file);
  BadRows bad;
  int64_t rows = 0;
  for (JsonRow row; reader.next(row); ++rows) {
    try {
      const std::string where = fmt::format("{}:{}", file, row.line);
      at_place(where, [&] {
        const OrderedJson json = parse_exact_json(row.text, "");
        if (!json.is_object()) throw row_error("is not a JSON object");
        use(json, where);
      });
    } catch (const Error& error) {
      bad.add(error);
    }
  }
  bad.refuse(file, rows, "");
  if (rows == 0) throw input_error(file, "holds no rows");
}

const std::string& text_of(const OrderedJson& row, const char* key) {
  const auto text = row.find(key);
  if (text == row.end() || !text->is_string())
    throw row_error(fmt::format("has no key '{}' with a text", key), fmt::format("{{\"{}\": \"...\"}}", key));
  return text->get_ref<const std::string&>();
}

// Files are read twice, first to check every row: nothing is printed of a file with a mistake in it.
void tokenize_texts(const std::string& file, RowPrinter& printer) {
  for_each_row(file, [](const OrderedJson& row, const std::string&) { text_of(row, "text"); });
  for_each_row(file, [&](const OrderedJson& row, const std::string&) { printer.print_text(text_of(row, "text")); });
}

// What training makes of files, by its own reader.
void tokenize_messages(const CommandArgs& args, const Tokenizer& tokenizer, RowPrinter& printer) {
  const DataConfig config = read_data_config(args);
  const std::vector<std::string> files = find_data_files({args.messages});
  const int64_t vocab_size = vocab_size_of(args.model, tokenizer);
  std::unique_ptr<ChatTemplate> chat;
  for (const std::string& file : files) {
    if (chat == nullptr && needs_chat_template(data_format_of(file, config)))
      chat = open_template(config.chat_template, config.template_options, args.model, config.template_name);
  }
  const std::string summary =  // throws or says what training would
      in_words(load_dataset(files, config, &tokenizer, chat.get(), vocab_size));
  const auto for_each_prepared = [&](const auto& use) {
    for (const std::string& file : files) {
      const ChatTemplate* of_file = needs_chat_template(data_format_of(file, config)) ? chat.get() : nullptr;
      BadRows said_already;
      read_data_file(file, config, &tokenizer, of_file, vocab_size, said_already,
                     [&](PreparedRow&& row) { use(row, of_file); });
    }
  };
  // Nothing is printed when one of the prompts cannot be.
  if (args.json)
    for_each_prepared([](const PreparedRow& row, const ChatTemplate* format) { generation_prompt_of(row, format); });
  for_each_prepared([&](const PreparedRow& row, const ChatTemplate* format) { printer.print_prepared(row, format); });
  if (!args.json) print_result(summary + "\n");
}

// How the completions of a file's rows are taken apart.
class CompletionReader {
 public:
  explicit CompletionReader(const CommandArgs& args)
      : options_(read_options(args)), may_lack_end_(args.parse_without_eos) {
    const std::string name = args.template_name.empty() ? "auto" : args.template_name;
    const std::string syntax = args.syntax.empty() ? "auto" : args.syntax;
    // What wraps another format has no syntax whatever its base, which needs no opening to say so.
    const ChatFormat* named = find_chat_format(name);
    if (named != nullptr && !has_encoder(*named) && syntax == "auto") {
      throw input_error("--parse", fmt::format("completions of {} cannot be taken apart", name),
                        "--syntax " + join_choices(answer_syntax_names()));
    }
    chat_ = open_template(name, options_, args.model);
    if (!has_parser(chat_->format) || syntax != "auto")
      reader_.emplace(*chat_, syntax, args.syntax.empty() ? "--parse" : "--syntax");
  }

  // Throws an input error without the row's place on wrong keys of the row.
  CompletionParser parser_of(const OrderedJson& row) const {
    if (!reader_) return chat_->format.parser(options_, row, may_lack_end_);
    static const OrderedJson kAnyQuestion = OrderedJson::array({OrderedJson{{"role", "user"}, {"content", "…"}}});
    const OrderedJson tools = row.value("tools", OrderedJson());
    if (!tools.is_null() && !tools.is_array()) throw row_error("tools is not a list");
    std::string prompt = chat_->encoder->generation_prompt(row.value("messages", kAnyQuestion), tools);
    return [this, tools, prompt = std::move(prompt)](std::string_view completion) {
      return reader_->read(completion, prompt, tools, may_lack_end_);
    };
  }

 private:
  Json options_;
  bool may_lack_end_;
  std::unique_ptr<ChatTemplate> chat_;
  std::optional<AnswerReader> reader_;  // none: the format's own parser
};

// A completion that is malformed is a result, not a mistake of the file.
void parse_completions(const CommandArgs& args) {
  const CompletionReader reader(args);
  for_each_row(args.parse, [&](const OrderedJson& row, const std::string&) {
    text_of(row, "completion");
    reader.parser_of(row);
  });
  int64_t rows = 0;
  for_each_row(args.parse, [&](const OrderedJson& row, const std::string& where) {
    OrderedJson message, error;
    try {
      message = at_place(where, [&] { return reader.parser_of(row)(text_of(row, "completion")); });
    } catch (const Error& malformed) {
      error = malformed.what();
    }
    if (args.json) {
      print_json(OrderedJson{{"message", message}, {"error", error}});
    } else {
      const std::string shown = error.is_null() ? message.dump(2) : "malformed: " + error.get<std::string>();
      print_result(fmt::format("── row {} ──\n{}\n", ++rows, for_terminal(shown)));
    }
  });
}

}  // namespace

int run_tokenize(const CommandArgs& args) {
  if (!args.chat_template.empty() && args.text.empty() && args.texts.empty() && args.parse.empty()) {
    tokenize_by_template(args);
    return 0;
  }
  check_tokenize_flags(args);
  if (!args.parse.empty()) {
    parse_completions(args);
    return 0;
  }
  const Tokenizer tokenizer = Tokenizer::from_folder(args.model);
  RowPrinter printer(tokenizer, args.json);
  if (!args.text.empty()) {
    printer.print_text(args.text);
  } else if (!args.texts.empty()) {
    tokenize_texts(args.texts, printer);
  } else {
    tokenize_messages(args, tokenizer, printer);
  }
  return 0;
}

}  // namespace moraine
