#include "text/chat/qwen3_5_chat.h"

#include <fmt/format.h>

#include "base/error.h"
#include "text/chat/chat_message.h"
#include "text/chat/chat_turns.h"
#include "text/chat/qwen_turns.h"
#include "text/chat/tojson.h"
#include "text/tokenizer/at_place.h"
#include "text/tokenizer/unicode.h"

namespace moraine {
namespace {

constexpr std::string_view kQwen35ToolsBegin = "# Tools\n\nYou have access to the following functions:\n\n<tools>";
constexpr std::string_view kQwen35ToolsEnd =
    "\n</tools>\n\n"
    "If you choose to call a function ONLY reply in the following format with NO suffix:\n\n"
    "<tool_call>\n<function=example_function_name>\n"
    "<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n"
    "</parameter>\n</function>\n</tool_call>\n\n"
    "<IMPORTANT>\nReminder:\n"
    "- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within "
    "<tool_call></tool_call> XML tags\n"
    "- Required parameters MUST be specified\n"
    "- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT "
    "after\n"
    "- If there is no function call available, answer the question like normal with your current knowledge and do not "
    "tell the user about function calls\n"
    "</IMPORTANT>";

std::vector<ChatMessage> read_messages(const OrderedJson& json) {
  std::vector<ChatMessage> messages =
      read_chat_messages(json, {"system", "user", "assistant", "tool"}, Arguments::kOptional);
  for (size_t i = 0; i < messages.size(); ++i) {
    messages[i].content = std::string(strip_white_space(messages[i].content));
    if (i > 0 && messages[i].role == "system") {
      throw message_error(i, "a system message that is not the first", "qwen3_5 has no place for it");
    }
  }
  check_tool_results(messages, "<tool_call>");
  return messages;
}

// The call's arguments as an object, in whose place files often hold its JSON text; a blank one is no parameters, as
// arguments that are missing are.
OrderedJson arguments_object(const ToolCall& call) {
  OrderedJson arguments = call.arguments;
  if (arguments.is_string() && strip_white_space(arguments.get_ref<const std::string&>()).empty()) {
    arguments = OrderedJson::object();
  } else if (arguments.is_string()) {
    arguments =
        parse_exact_json(arguments.get_ref<const std::string&>(), "arguments of " + quoted_for_error(call.name));
  }
  if (!arguments.is_object()) {
    throw row_error(fmt::format("arguments of {} are not an object", quoted_for_error(call.name)),
                    "qwen3_5 writes them as named parameters");
  }
  return arguments;
}

void append_call(std::string& text, const ToolCall& call) {
  text += "<tool_call>\n<function=" + call.name + ">\n";
  const OrderedJson arguments = arguments_object(call);
  for (const auto& [name, value] : arguments.items()) {
    text += "<parameter=" + name + ">\n";
    text += value.is_structured() ? to_python_json(value) : to_python_str(value);
    text += "\n</parameter>\n";
  }
  text += "</function>\n</tool_call>";
}

class Qwen35Chat final : public ChatEncoder {
 public:
  explicit Qwen35Chat(QwenThinking thinking) : thinking_(thinking) {}

  ChatText training_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return render(messages, tools, QwenPurpose::kTraining);
  }

  ChatText turn_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return only_last_turn(render(messages, tools, QwenPurpose::kInference), *this, messages, tools);
  }

  std::string inference_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return render(messages, tools, QwenPurpose::kInference).text;
  }

  std::string generation_prompt(const OrderedJson& messages, const OrderedJson& tools) const override {
    return inference_text(messages, tools) + "<|im_start|>assistant\n<think>\n" +
           (thinking_ == QwenThinking::kOff ? "\n</think>\n\n" : "");
  }

 private:
  static ChatText render(const OrderedJson& messages_json, const OrderedJson& tools, QwenPurpose purpose) {
    const std::vector<ChatMessage> messages = read_messages(messages_json);
    check_tools(tools);
    const std::optional<size_t> query = last_query(messages);
    if (!query) throw row_error("no message of a user", "qwen3_5's conversations answer one");
    ChatText chat;
    append_system(chat.text, messages[0], tools);
    for (size_t i = 0; i < messages.size(); ++i) {
      const ChatMessage& message = messages[i];
      if (message.role == "assistant") {
        chat.text += "<|im_start|>assistant\n";
        const size_t begin = chat.text.size();
        QwenAnswer answer = split_thinking(message);
        if (i > *query || purpose == QwenPurpose::kTraining) {
          chat.text += "<think>\n";
          chat.text += strip_white_space(answer.thinking);
          chat.text += "\n</think>\n\n";
        }
        chat.text += answer.content;
        at_place(fmt::format("messages[{}]", i), [&] { append_calls(chat.text, message, answer.content); });
        chat.text += "<|im_end|>\n";
        chat.add_answer(begin, message);
      } else if (message.role == "tool") {
        append_tool_result(chat, messages, i);
      } else if (message.role == "user") {
        chat.text += "<|im_start|>user\n";
        chat.append_foreign(message.content);
        chat.text += "<|im_end|>\n";
      }
    }
    return chat;
  }

  static void append_system(std::string& text, const ChatMessage& first, const OrderedJson& tools) {
    const bool has_system = first.role == "system";
    if (tools.empty() && !has_system) return;
    text += "<|im_start|>system\n";
    if (!tools.empty()) {
      text += kQwen35ToolsBegin;
      for (const OrderedJson& tool : tools) {
        text += '\n';
        text += to_python_json(tool);
      }
      text += kQwen35ToolsEnd;
      if (has_system && !first.content.empty()) text += "\n\n";
    }
    if (has_system) text += first.content;
    text += "<|im_end|>\n";
  }

  static void append_calls(std::string& text, const ChatMessage& message, std::string_view content) {
    const char* separator = strip_white_space(content).empty() ? "" : "\n\n";
    for (const ToolCall& call : message.tool_calls) {
      text += separator;
      append_call(text, call);
      separator = "\n";
    }
  }

  QwenThinking thinking_;
};

}  // namespace

std::unique_ptr<ChatEncoder> make_qwen3_5_chat(QwenThinking thinking) {
  MORAINE_ASSERT(thinking != QwenThinking::kNone, "Qwen3.5 has no format without thinking");
  return std::make_unique<Qwen35Chat>(thinking);
}

bool resembles_qwen3_5(std::string_view jinja) {
  return mentions_all(jinja, {"<|im_start|>", "<|im_end|>", "# Tools\\n\\nYou have access to the following functions:",
                              "<function=", "<parameter=", "<tool_response>", "</think>", "enable_thinking"}) &&
         !mentions_any(jinja, {"<name>"});
}

}  // namespace moraine
