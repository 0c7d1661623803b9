// moraine tokenize: text and chats as the trainer sees them, and completions taken apart.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "base/output.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/show_tokens.h"
#include "data/chat_formats.h"
#include "data/chat_template.h"
#include "data/deepseek_v4_chat.h"
#include "data/deepseek_v4_parse.h"
#include "data/row_reader.h"
#include "data/tokenizer.h"

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
  if (args.messages.empty() && args.parse.empty() && !(args.template_name.empty() && args.template_options.empty())) {
    throw input_error(args.template_name.empty() ? "--template-options" : "--template",
                      "is for --messages and --parse only");
  }
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
    for (size_t at; (at = text.find(key)) != text.npos;) text.replace(at, key.size(), flag);
  }
  return text;
}

Json read_options(const CommandArgs& args) {
  return args.template_options.empty() ? Json::object() : parse_json(args.template_options, "--template-options");
}

std::unique_ptr<ChatTemplate> open_template(const CommandArgs& args) {
  const Json options = read_options(args);
  try {
    return make_chat_template(args.template_name.empty() ? "auto" : args.template_name, options, args.model);
  } catch (const Error& error) {
    throw input_error(as_flags(error.where), error.message, as_flags(error.hint));
  }
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
      print_row(text, encoding, {});
      print_result(fmt::format("ids: {}\n", fmt::join(encoding.ids, " ")));
    }
  }

  void print_chat(const ChatTemplate& format, const ChatRow& chat, const std::string& where) {
    const ChatText text = format.training_text(chat.messages, chat.tools, where);
    const TokenizedChat tokens = tokenize_chat(text, tokenizer_, LossOn::kAssistant);
    if (json_) {
      print_json({{"text", text.text},
                  {"ids", tokens.ids},
                  {"loss_mask", tokens.loss_mask},
                  {"generation_prompt",
                   format.generation_prompt(before_last_answer(chat.messages), chat.tools, where)}});
    } else {
      print_row(text.text, tokenizer_.encode(text.text), tokens.loss_mask);
    }
  }

 private:
  void print_json(const OrderedJson& json) { moraine::print_json(json); }

  void print_row(const std::string& text, const Encoding& encoding, const std::vector<uint8_t>& loss_mask) {
    const auto trained = std::count(loss_mask.begin(), loss_mask.end(), 1);
    const std::string shown = show_tokens(text, encoding, loss_mask, marks_);
    print_result(fmt::format("── row {}: {} tokens{} ──\n{}{}", ++rows_, encoding.ids.size(),
                             loss_mask.empty() ? "" : fmt::format(", {} trained", trained), shown, shown.ends_with('\n') ? "" : "\n"));
  }

  const Tokenizer& tokenizer_;
  bool json_;
  int64_t rows_ = 0;
  TokenMarks marks_ = marks_for_stdout();
};

// Calls `use` with each row of a JSON lines file and its place.
template <typename Use>
void for_each_row(const std::string& file, const Use& use) {
  RowReader reader(file);
  int64_t rows = 0;
  for (JsonRow row; reader.next(row); ++rows) {
    const std::string where = fmt::format("{}:{}", file, row.line);
    OrderedJson json = parse_exact_json(row.text, where);
    if (!json.is_object()) throw input_error(where, "is not a JSON object");
    use(std::move(json), where);
  }
  if (rows == 0) throw input_error(file, "holds no rows");
}

const std::string& text_of(const OrderedJson& row, const char* key, const std::string& where) {
  const auto text = row.find(key);
  if (text == row.end() || !text->is_string())
    throw input_error(where, fmt::format("has no key '{}' with a text", key), fmt::format("{{\"{}\": \"...\"}}", key));
  return text->get_ref<const std::string&>();
}

// Files are read twice, first to check every row: nothing is printed of a file with a mistake in it.
void tokenize_texts(const std::string& file, RowPrinter& printer) {
  for_each_row(file, [](const OrderedJson& row, const std::string& where) { text_of(row, "text", where); });
  for_each_row(file, [&](const OrderedJson& row, const std::string& where) {
    printer.print_text(text_of(row, "text", where));
  });
}

void tokenize_messages(const std::string& file, const ChatTemplate& format, RowPrinter& printer) {
  for_each_row(file, [&](OrderedJson row, const std::string& where) {
    const ChatRow chat = chat_of_row(DataFormat::kMessages, std::move(row), where);
    format.training_text(chat.messages, chat.tools, where);
    format.generation_prompt(before_last_answer(chat.messages), chat.tools, where);
  });
  for_each_row(file, [&](OrderedJson row, const std::string& where) {
    printer.print_chat(format, chat_of_row(DataFormat::kMessages, std::move(row), where), where);
  });
}

// A row's own thinking_mode goes before the option.
deepseek_v4::ThinkingMode mode_of(const OrderedJson& row, const DeepseekV4Options& options, const std::string& where) {
  const auto mode = row.find("thinking_mode");
  if (mode == row.end() || mode->is_null()) return options.thinking_mode;
  if (*mode == "chat") return deepseek_v4::ThinkingMode::kChat;
  if (*mode == "thinking") return deepseek_v4::ThinkingMode::kThinking;
  throw input_error(where, "thinking_mode is not chat or thinking");
}

// A completion that is malformed is a result, not a mistake of the file.
void parse_completions(const CommandArgs& args) {
  // react's completions are no more than text, whatever its base, which needs no opening to say so.
  const std::string name = args.template_name == "react" ? args.template_name : open_template(args)->name();
  if (name != "deepseek_v4")
    throw input_error("--parse", fmt::format("completions of {} cannot be taken apart", name),
                      "--template deepseek_v4");
  const DeepseekV4Options options = read_deepseek_v4_options(read_options(args));
  for_each_row(args.parse, [&](const OrderedJson& row, const std::string& where) {
    text_of(row, "completion", where);
    mode_of(row, options, where);
  });
  int64_t rows = 0;
  for_each_row(args.parse, [&](const OrderedJson& row, const std::string& where) {
    OrderedJson message, error;
    try {
      message = deepseek_v4::parse_completion(text_of(row, "completion", where), mode_of(row, options, where), where);
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
  check_tokenize_flags(args);
  if (!args.parse.empty()) {
    parse_completions(args);
    return 0;
  }
  const Tokenizer tokenizer = Tokenizer::from_file(std::filesystem::path(args.model) / "tokenizer.json");
  RowPrinter printer(tokenizer, args.json);
  if (!args.text.empty()) {
    printer.print_text(args.text);
  } else if (!args.texts.empty()) {
    tokenize_texts(args.texts, printer);
  } else {
    tokenize_messages(args.messages, *open_template(args), printer);
  }
  return 0;
}

}  // namespace moraine
