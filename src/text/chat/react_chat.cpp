#include "text/chat/react_chat.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "text/chat/chat_message.h"
#include "text/chat/qwen_turns.h"
#include "text/chat/tojson.h"
#include "text/tokenizer/at_place.h"

namespace moraine {
namespace {

constexpr std::string_view kThought = "Thought: ", kAction = "Action: ", kActionInput = "Action Input: ",
                           kObservation = "Observation: ", kFinalAnswer = "Final Answer: ";

struct Tool {
  std::string name, line;  // line: for the list in the prompt
};

Tool read_tool(const OrderedJson& json) {
  const OrderedJson* inner = find_member(json, "function");
  const OrderedJson& function = inner != nullptr ? *inner : json;
  const OrderedJson* name = function.is_object() ? find_member(function, "name") : nullptr;
  if (name == nullptr || !name->is_string()) {
    throw row_error("a tool without a name",
                    "a tool is {\"function\": {\"name\": …, \"description\": …, \"parameters\": {…}}}");
  }
  Tool tool{name->get<std::string>(), name->get<std::string>() + ":"};
  if (const OrderedJson* description = find_member(function, "description")) {
    if (!description->is_string()) {
      throw row_error(fmt::format("the description of {} is not text", quoted_for_error(tool.name)));
    }
    tool.line += " " + description->get<std::string>();
  }
  const OrderedJson* parameters = find_member(function, "parameters");
  tool.line += fmt::format(" Parameters: {} Format the arguments as a JSON object.",
                           parameters != nullptr ? to_python_json(*parameters) : "{}");
  return tool;
}

std::string tools_prompt(const OrderedJson& tools) {
  std::vector<std::string> names, lines;
  for (const OrderedJson& json : tools) {
    Tool tool = read_tool(json);
    names.push_back(std::move(tool.name));
    lines.push_back(std::move(tool.line));
  }
  return fmt::format(
      "Answer the following questions as best you can. You have access to the following tools:\n\n"
      "{}\n\n"
      "Use the following format:\n\n"
      "{}you should always think about what to do\n"
      "{}the action to take, should be one of [{}]\n"
      "{}the input to the action\n"
      "{}the result of the action\n"
      "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
      "{}I now know the final answer\n"
      "{}the final answer to the original input question\n\n"
      "Begin!",
      fmt::join(lines, "\n"), kThought, kAction, fmt::join(names, ","), kActionInput, kObservation, kThought,
      kFinalAnswer);
}

std::string_view without_space(std::string_view word) { return word.substr(0, word.size() - 1); }

bool is_in_format(std::string_view content) {
  return content.starts_with(without_space(kThought)) || content.starts_with(without_space(kAction)) ||
         content.starts_with(without_space(kFinalAnswer));
}

bool has_line(std::string_view text, std::string_view begin) {
  return text.starts_with(begin) || text.find("\n" + std::string(begin)) != text.npos;
}

enum class Tools { kNone, kGiven };

std::string assistant_text(const ChatMessage& message, Tools tools) {
  const std::string& content = message.content;
  const bool has_calls = !message.tool_calls.empty();
  const bool is_split = tools == Tools::kGiven || has_calls || message.reasoning_content;
  if (!is_split || (!has_calls && !message.reasoning_content && is_in_format(content))) return content;
  for (std::string_view word : {without_space(kAction), without_space(kFinalAnswer)}) {
    if (!has_calls || !has_line(content, word)) continue;
    throw row_error(fmt::format("content says '{}' beside tool_calls", word),
                    "which of the two is meant? give one of them");
  }
  QwenAnswer answer = split_thinking(message);
  if (has_calls && answer.thinking.empty()) std::swap(answer.thinking, answer.content);
  std::vector<std::string> lines;
  if (!answer.thinking.empty()) {
    const bool is_thought = answer.thinking.starts_with(without_space(kThought));
    lines.push_back(fmt::format("{}{}", is_thought ? "" : kThought, answer.thinking));
  }
  for (const ToolCall& call : message.tool_calls) {
    lines.push_back(fmt::format("{}{}", kAction, call.name));
    lines.push_back(
        fmt::format("{}{}", kActionInput,
                    call.arguments.is_string() ? call.arguments.get<std::string>() : to_python_json(call.arguments)));
  }
  if (!has_calls) lines.push_back(fmt::format("{}{}", tools == Tools::kGiven ? kFinalAnswer : "", answer.content));
  std::string text = fmt::format("{}", fmt::join(lines, "\n"));
  // A base that thinks would take the text apart there.
  for (const char* tag : {"<think>", "</think>"}) {
    if (text.find(tag) == text.npos) continue;
    throw row_error(fmt::format("a thought, call or answer of react holds {}", tag),
                    "thinking is given as reasoning_content, without its tags");
  }
  return text;
}

OrderedJson plain_message(const std::string& role, std::string content) {
  return OrderedJson{{"role", role}, {"content", std::move(content)}};
}

class ReactChat final : public ChatEncoder {
 public:
  explicit ReactChat(std::unique_ptr<ChatEncoder> base) : base_(std::move(base)) {}

  ChatText training_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return base_->training_text(to_react_messages(messages, tools), nullptr);
  }

  ChatText turn_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return base_->turn_text(to_react_messages(messages, tools), nullptr);
  }

  std::string inference_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return base_->inference_text(to_react_messages(messages, tools), nullptr);
  }

  std::string generation_prompt(const OrderedJson& messages, const OrderedJson& tools) const override {
    return base_->generation_prompt(to_react_messages(messages, tools), nullptr);
  }

 private:
  std::unique_ptr<ChatEncoder> base_;
};

}  // namespace

OrderedJson to_react_messages(const OrderedJson& messages_json, const OrderedJson& tools_json) {
  std::vector<ChatMessage> messages = read_chat_messages(messages_json, {"system", "user", "assistant", "tool"});
  for (ChatMessage& message : messages) {
    if (message.reasoning_content == "") message.reasoning_content.reset();  // a thought of nothing is none
  }
  check_tool_results(messages, without_space(kAction));
  check_tools(tools_json);
  const Tools tools = tools_json.empty() ? Tools::kNone : Tools::kGiven;
  OrderedJson plain = OrderedJson::array();
  size_t next = 0;
  if (tools == Tools::kGiven) {
    std::string system = tools_prompt(tools_json);
    if (messages[0].role == "system") {
      next = 1;
      if (!messages[0].content.empty()) system = messages[0].content + "\n\n" + system;
    }
    plain.push_back(plain_message("system", std::move(system)));
  }
  for (; next < messages.size(); ++next) {
    const ChatMessage& message = messages[next];
    if (message.role == "assistant") {
      std::string text = at_place(fmt::format("messages[{}]", next), [&] { return assistant_text(message, tools); });
      plain.push_back(plain_message("assistant", std::move(text)));
      if (!message.is_trained) plain.back()["train"] = false;
    } else if (message.role == "tool") {
      const std::string observation = std::string(kObservation) + message.content;
      if (messages[next - 1].role == "tool") {
        plain.back()["content"].get_ref<std::string&>() += "\n" + observation;
      } else {
        plain.push_back(plain_message("user", observation));
      }
    } else {
      if (message.role == "system" && tools == Tools::kGiven) {
        throw message_error(next, "a system message that is not the first", "react tells the tools in the first one");
      }
      plain.push_back(plain_message(message.role, message.content));
    }
  }
  return plain;
}

std::unique_ptr<ChatEncoder> make_react_chat(std::unique_ptr<ChatEncoder> base) {
  return std::make_unique<ReactChat>(std::move(base));
}

}  // namespace moraine
