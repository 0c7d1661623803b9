#include "text/chat/qwen_chat.h"

#include "base/error.h"
#include "text/chat/chat_message.h"
#include "text/chat/chat_turns.h"
#include "text/chat/qwen_turns.h"
#include "text/chat/tojson.h"

namespace moraine {
namespace {

constexpr std::string_view kQwen3ToolsBegin =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
constexpr std::string_view kQwen3ToolsEnd =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n";

// Whether an answer is written with its thinking block.
enum class Block { kNever, kIfAnyThinking, kAlways };

class Qwen3Chat final : public ChatEncoder {
 public:
  explicit Qwen3Chat(QwenThinking thinking) : thinking_(thinking) {}

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
    std::string text = inference_text(messages, tools) + "<|im_start|>assistant\n";
    if (thinking_ == QwenThinking::kOff) text += "<think>\n\n</think>\n\n";
    return text;
  }

 private:
  ChatText render(const OrderedJson& messages_json, const OrderedJson& tools, QwenPurpose purpose) const {
    const std::vector<ChatMessage> messages =
        read_chat_messages(messages_json, {"system", "user", "assistant", "tool"});
    check_tools(tools);
    ChatText chat;
    append_system(chat.text, messages[0], tools);
    const size_t query = last_query(messages).value_or(messages.size() - 1);
    for (size_t i = 0; i < messages.size(); ++i) {
      const ChatMessage& message = messages[i];
      const bool last = i + 1 == messages.size();
      if (message.role == "assistant") {
        chat.text += "<|im_start|>assistant\n";
        const size_t begin = chat.text.size();
        Block block = Block::kNever;
        if (i > query) block = last ? Block::kAlways : Block::kIfAnyThinking;
        if (purpose == QwenPurpose::kTraining) block = Block::kAlways;
        append_answer(chat.text, message, block);
        chat.add_answer(begin, message);
      } else if (message.role == "tool") {
        append_tool_result(chat, messages, i);
      } else if (message.role == "user" || i > 0) {  // a leading system message is written already
        chat.text += "<|im_start|>" + message.role + "\n";
        if (message.role == "user") {
          chat.append_foreign(message.content);
        } else {
          chat.text += message.content;
        }
        chat.text += "<|im_end|>\n";
      }
    }
    return chat;
  }

  static void append_system(std::string& text, const ChatMessage& first, const OrderedJson& tools) {
    const bool has_system = first.role == "system";
    if (tools.empty()) {
      if (has_system) text += "<|im_start|>system\n" + first.content + "<|im_end|>\n";
      return;
    }
    text += "<|im_start|>system\n";
    if (has_system) text += first.content + "\n\n";
    text += kQwen3ToolsBegin;
    for (const OrderedJson& tool : tools) {
      text += '\n';
      text += to_python_json(tool);
    }
    text += kQwen3ToolsEnd;
  }

  void append_answer(std::string& text, const ChatMessage& message, Block block) const {
    QwenAnswer answer{"", message.content};
    if (thinking_ == QwenThinking::kNone) {
      block = Block::kNever;
    } else {
      answer = split_thinking(message);
    }
    if (block == Block::kAlways || (block == Block::kIfAnyThinking && !answer.thinking.empty())) {
      text += "<think>\n";
      text += strip_newlines_right(strip_newlines_left(answer.thinking));
      text += "\n</think>\n\n";
      text += strip_newlines_left(answer.content);
    } else {
      text += answer.content;
    }
    bool first = true;
    for (const ToolCall& call : message.tool_calls) {
      if (!first || !answer.content.empty()) text += '\n';
      first = false;
      text += "<tool_call>\n{\"name\": \"" + call.name + "\", \"arguments\": ";
      text += call.arguments.is_string() ? call.arguments.get<std::string>() : to_python_json(call.arguments);
      text += "}\n</tool_call>";
    }
    text += "<|im_end|>\n";
  }

  QwenThinking thinking_;
};

// What both formats share: ChatML turns, tools in a system message, calls as JSON.
bool has_calls_as_json(std::string_view jinja) {
  // The last ones: relatives with calls as XML, and the VL models.
  return mentions_all(jinja, {"<|im_start|>", "<|im_end|>", "<tools>", "<tool_call>", "<tool_response>"}) &&
         !mentions_any(jinja, {"<function=", "<parameter=", "<|vision_start|>", "<|image_pad|>"});
}

}  // namespace

std::unique_ptr<ChatEncoder> make_qwen3_chat(QwenThinking thinking) { return std::make_unique<Qwen3Chat>(thinking); }

bool resembles_qwen3(std::string_view jinja) { return has_calls_as_json(jinja) && mentions_any(jinja, {"think>"}); }

bool resembles_qwen3_instruct_2507(std::string_view jinja) {
  return has_calls_as_json(jinja) && !mentions_any(jinja, {"think>"});
}

}  // namespace moraine
