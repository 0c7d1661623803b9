#include "text/rows/row_formats.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "base/error.h"
#include "text/chat/chat_message.h"
#include "text/chat/qwen_turns.h"
#include "text/chat/tojson.h"
#include "text/tokenizer/at_place.h"

namespace moraine {
namespace {

// "" when missing, null or empty.
std::string optional_text(const OrderedJson& row, const char* key) {
  const OrderedJson* value = find_member(row, key);
  if (value == nullptr) return "";
  if (!value->is_string()) throw row_error(fmt::format("'{}' is not text", key));
  return value->get<std::string>();
}

std::string required_text(const OrderedJson& row, const char* key) {
  if (find_member(row, key) == nullptr) throw row_error(fmt::format("no '{}'", key));
  return optional_text(row, key);
}

OrderedJson message(const char* role, std::string content) {
  return OrderedJson::object({{"role", role}, {"content", std::move(content)}});
}

// Data sets often store tools as JSON text.
OrderedJson tools_of_row(OrderedJson& row) {
  auto it = row.find("tools");
  if (it == row.end()) return nullptr;
  OrderedJson tools = std::move(*it);
  if (tools.is_string()) {
    const std::string& text = tools.get_ref<const std::string&>();
    if (text.find_first_not_of(" \t\r\n") == text.npos) return nullptr;
    tools = parse_exact_json(text, "tools");
  }
  return tools;
}

// What stands between <think> and the </think> that ends `text`, without newlines around; nullopt for other text.
std::optional<std::string> thinking_in_tags(std::string_view text) {
  constexpr std::string_view kBegin = "<think>", kEnd = "</think>";
  text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  if (!text.starts_with(kBegin) || !text.ends_with(kEnd)) return std::nullopt;
  text = text.substr(kBegin.size(), text.size() - kBegin.size() - kEnd.size());
  if (text.find(kBegin) != text.npos || text.find(kEnd) != text.npos) return std::nullopt;
  return std::string(strip_newlines_left(strip_newlines_right(text)));
}

// {"name", "arguments"} or a list of them, after the thinking that may stand before.
OrderedJson message_of_function_call(const std::string& value) {
  size_t json_begin = value.rfind("</think>");
  json_begin = json_begin == value.npos ? 0 : json_begin + std::string_view("</think>").size();
  OrderedJson calls = parse_exact_json(std::string_view(value).substr(json_begin), "function_call");
  if (!calls.is_array()) calls = OrderedJson::array({std::move(calls)});
  const std::string before = value.substr(0, json_begin);
  const std::optional<std::string> thinking = thinking_in_tags(before);
  OrderedJson result = message("assistant", thinking ? "" : before);
  if (thinking) result["reasoning_content"] = *thinking;  // where every format looks for it
  result["tool_calls"] = std::move(calls);
  return result;
}

OrderedJson message_of_value(const std::string& from, const std::string& value) {
  if (from == "human" || from == "user") return message("user", value);
  if (from == "gpt" || from == "assistant") return message("assistant", value);
  if (from == "system") return message("system", value);
  if (from == "tool" || from == "observation") return message("tool", value);
  if (from == "function_call") return message_of_function_call(value);
  throw row_error("unknown role " + quoted_for_error(from),
                  "from: human, gpt, system, tool, function_call and observation");
}

OrderedJson message_of_turn(OrderedJson turn) {
  if (!turn.is_object()) throw row_error("not an object", "turns are {\"from\": …, \"value\": …}");
  if (turn.contains("role")) return turn;
  const std::string from = required_text(turn, "from"), value = required_text(turn, "value");
  OrderedJson result = message_of_value(from, value);
  for (const char* flag : {"weight", "train", "loss"}) {
    if (const OrderedJson* given = find_member(turn, flag)) result[flag] = *given;
  }
  return result;
}

ChatRow sharegpt_row(OrderedJson row) {
  auto conversations = row.find("conversations");
  if (conversations == row.end() || !conversations->is_array()) throw row_error("no list 'conversations'");
  ChatRow chat{OrderedJson::array(), tools_of_row(row)};
  const std::string system = optional_text(row, "system");
  if (!system.empty()) chat.messages.push_back(message("system", system));
  for (OrderedJson& turn : *conversations) {
    const size_t index = static_cast<size_t>(&turn - &conversations->front());
    chat.messages.push_back(
        at_place(fmt::format("conversations[{}]", index), [&] { return message_of_turn(std::move(turn)); }));
  }
  if (!system.empty() && chat.messages.size() > 1 && chat.messages[1].value("role", OrderedJson()) == "system") {
    throw row_error("two system messages: 'system' and the first turn");
  }
  if (chat.tools.is_array()) {
    for (OrderedJson& tool : chat.tools) {
      if (!tool.is_object() || tool.contains("function")) continue;
      tool = OrderedJson::object({{"type", "function"}, {"function", std::move(tool)}});
    }
  }
  return chat;
}

ChatRow alpaca_row(const OrderedJson& row) {
  ChatRow chat{OrderedJson::array(), nullptr};
  const std::string system = optional_text(row, "system");
  if (!system.empty()) chat.messages.push_back(message("system", system));
  if (const OrderedJson* history = find_member(row, "history")) {
    const bool is_list = history->is_array();
    for (size_t i = 0; is_list && i < history->size(); ++i) {
      const OrderedJson& pair = (*history)[i];
      if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) {
        throw row_error(fmt::format("history[{}] is not [question, answer]", i));
      }
      chat.messages.push_back(message("user", pair[0].get<std::string>()));
      chat.messages.push_back(message("assistant", pair[1].get<std::string>()));
    }
    if (!is_list) throw row_error("'history' is not a list of [question, answer]");
  }
  std::string question = required_text(row, "instruction");
  const std::string input = optional_text(row, "input");
  if (!question.empty() && !input.empty()) question += '\n';
  chat.messages.push_back(message("user", question + input));
  chat.messages.push_back(message("assistant", required_text(row, "output")));
  return chat;
}

ChatRow prompt_row(OrderedJson row, bool only_completion) {
  ChatRow chat{OrderedJson::array(), tools_of_row(row)};
  for (const char* key : {"prompt", "completion"}) {
    auto part = row.find(key);
    if (part == row.end() || !part->is_array()) throw row_error(fmt::format("'{}' is not a list of messages", key));
    const bool left_out = only_completion && std::string_view(key) == "prompt";
    for (OrderedJson& message : *part) {
      if (left_out && message.is_object() && message.value("role", OrderedJson()) == "assistant") {
        for (const char* flag : {"weight", "loss"}) message.erase(flag);
        message["train"] = false;
      }
      chat.messages.push_back(std::move(message));
    }
  }
  return chat;
}

bool is_placeholder_name(std::string_view name) {
  return name.size() >= 2 && name[0] >= 'A' && name[0] <= 'Z' &&
         name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == name.npos;
}

std::string filled(const std::string& text, const std::map<std::string, std::string>& variables) {
  size_t open = text.find("{{");
  if (open == text.npos) return text;
  std::string result;
  size_t done = 0;
  for (; open != text.npos; open = text.find("{{", open)) {
    // The innermost braces of "{{{NAME}}}".
    while (open + 2 < text.size() && text[open + 2] == '{') ++open;
    const size_t close = text.find("}}", open + 2);
    if (close == text.npos) break;
    const std::string name = text.substr(open + 2, close - open - 2);
    if (auto it = variables.find(name); it != variables.end()) {
      result.append(text, done, open - done);
      result += it->second;
      done = open = close + 2;
    } else if (is_placeholder_name(name)) {
      throw row_error(fmt::format("no value for the placeholder {{{{{}}}}}", name),
                      fmt::format("data.variables.{0}=…; '{{{{{0}}}}}' itself keeps it as it is", name));
    } else {
      open += 2;
    }
  }
  return result.append(text, done);
}

// Text, or a list of parts: texts and tool results, which hold content again.
void fill_content(OrderedJson& content, const std::map<std::string, std::string>& variables) {
  if (content.is_string()) content = filled(content.get_ref<const std::string&>(), variables);
  if (!content.is_array()) return;
  for (OrderedJson& part : content) {
    if (!part.is_object()) continue;
    if (part.contains("text") && part["text"].is_string()) fill_content(part["text"], variables);
    if (part.value("type", OrderedJson()) == "tool_result" && part.contains("content"))
      fill_content(part["content"], variables);
  }
}

}  // namespace

DataFormat format_of_row(const OrderedJson& row) {
  if (!row.is_object()) throw row_error("a row is not an object");
  if (row.contains("messages")) return DataFormat::kMessages;
  if (row.contains("conversations")) return DataFormat::kShareGpt;
  if (row.contains("instruction")) return DataFormat::kAlpaca;
  if (row.contains("prompt") && row.contains("completion"))
    return row["prompt"].is_array() ? DataFormat::kPromptMessages : DataFormat::kPromptText;
  if (row.contains("text")) return DataFormat::kText;
  throw row_error("the row is of no known format",
                  "rows hold messages, conversations, instruction and output, prompt and completion, or text");
}

bool needs_chat_template(DataFormat format) {
  return format != DataFormat::kText && format != DataFormat::kPromptText && format != DataFormat::kTokens;
}

PromptText prompt_text_of_row(const OrderedJson& row) {
  if (!row.is_object()) throw row_error("a row is not an object");
  for (const char* key : {"prompt", "completion"}) {
    if (find_member(row, key) != nullptr && row[key].is_array())
      throw row_error(fmt::format("'{}' is a list of messages, in other rows of the file it is text", key),
                      "write them alike");
  }
  return {required_text(row, "prompt"), required_text(row, "completion")};
}

ChatRow chat_of_row(DataFormat format, OrderedJson row, bool only_completion) {
  if (!row.is_object()) throw row_error("a row is not an object");
  if (const OrderedJson* options = find_member(row, "chat_template_kwargs"); options != nullptr && !options->empty())
    throw row_error("'chat_template_kwargs' of a row is not read",
                    "data.template_options are those of all rows; leave it out");
  if ((format == DataFormat::kMessages || format == DataFormat::kPromptMessages) &&
      !optional_text(row, "system").empty())
    throw row_error("'system' beside messages is not read", "make it the first message, of role system");
  if (format == DataFormat::kPromptMessages) return prompt_row(std::move(row), only_completion);
  if (format == DataFormat::kShareGpt) return sharegpt_row(std::move(row));
  if (format == DataFormat::kAlpaca) return alpaca_row(row);
  MORAINE_ASSERT(format == DataFormat::kMessages, "a row without a conversation");
  auto messages = row.find("messages");
  if (messages == row.end()) throw row_error("no 'messages'", "rows are {\"messages\": […]}");
  OrderedJson list = std::move(*messages);
  return {std::move(list), tools_of_row(row)};
}

std::map<std::string, std::string> read_variables(const DataConfig& config) {
  std::map<std::string, std::string> variables;
  for (const auto& [name, value] : config.variables.items()) {
    if (value.is_string()) {
      variables[name] = value.get<std::string>();
    } else if (value.is_number() || value.is_boolean()) {
      variables[name] = value.dump();
    } else {
      throw input_error("data.variables." + name, "not text");
    }
  }
  return variables;
}

void fill_variables(OrderedJson& messages, const std::map<std::string, std::string>& variables) {
  if (!messages.is_array()) return;  // the chat template says so
  for (OrderedJson& message : messages) {
    if (!message.is_object()) continue;
    for (const char* key : {"content", "reasoning_content", "reasoning"}) {
      auto it = message.find(key);
      if (it != message.end()) fill_content(*it, variables);
    }
  }
}

}  // namespace moraine
