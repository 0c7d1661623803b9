#include "data/qwen_chat.h"

#include "base/error.h"
#include "data/chat_message.h"
#include "data/tojson.h"

namespace moraine {
namespace {

constexpr std::string_view kToolsBegin =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
constexpr std::string_view kToolsEnd =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n";
constexpr std::string_view kThinkBegin = "<think>", kThinkEnd = "</think>";

std::string_view strip_newlines_left(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  return text;
}

std::string_view strip_newlines_right(std::string_view text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);  // npos + 1 == 0
}

// What an assistant thinks and says, with thinking that is written inside of `content` taken out.
struct Answer {
  std::string_view thinking, content;
};

Answer split_thinking(const ChatMessage& message) {
  if (message.reasoning_content) return {*message.reasoning_content, message.content};
  std::string_view content = message.content;
  size_t first_end = content.find(kThinkEnd);
  if (first_end == content.npos) return {"", content};
  std::string_view thinking = strip_newlines_right(content.substr(0, first_end));
  size_t begin = thinking.rfind(kThinkBegin);
  if (begin != thinking.npos) thinking.remove_prefix(begin + kThinkBegin.size());
  std::string_view rest = content.substr(content.rfind(kThinkEnd) + kThinkEnd.size());
  return {strip_newlines_left(thinking), strip_newlines_left(rest)};
}

// The results of tools are user messages in this format; they do not begin a new exchange.
bool is_query(const ChatMessage& message) {
  return message.role == "user" &&
         !(message.content.starts_with("<tool_response>") && message.content.ends_with("</tool_response>"));
}

enum class Purpose {
  kInference,  // as the released template: thinking before the last query is gone
  kTraining,   // every turn keeps its thinking block, an empty one when it has no thinking
};

// Whether an answer is written with its thinking block.
enum class Block { kNever, kIfAnyThinking, kAlways };

class Qwen3Chat final : public ChatTemplate {
 public:
  explicit Qwen3Chat(QwenThinking thinking) : thinking_(thinking) {}

  std::string name() const override { return thinking_ == QwenThinking::kNone ? "qwen3_instruct_2507" : "qwen3"; }

  ChatText training_text(const OrderedJson& messages, const OrderedJson& tools,
                         const std::string& where) const override {
    return render(messages, tools, where, Purpose::kTraining);
  }

  std::string inference_text(const OrderedJson& messages, const OrderedJson& tools,
                             const std::string& where) const override {
    return render(messages, tools, where, Purpose::kInference).text;
  }

  std::string generation_prompt(const OrderedJson& messages, const OrderedJson& tools,
                                const std::string& where) const override {
    std::string text = inference_text(messages, tools, where) + "<|im_start|>assistant\n";
    if (thinking_ == QwenThinking::kOff) text += "<think>\n\n</think>\n\n";
    return text;
  }

 private:
  ChatText render(const OrderedJson& messages_json, const OrderedJson& tools, const std::string& where,
                  Purpose purpose) const {
    const std::vector<ChatMessage> messages =
        read_chat_messages(messages_json, {"system", "user", "assistant", "tool"}, where);
    check_tools(tools, where);
    ChatText chat;
    append_system(chat.text, messages[0], tools);
    size_t last_query = messages.size() - 1;
    for (size_t i = messages.size(); i-- > 0;) {
      if (is_query(messages[i])) {
        last_query = i;
        break;
      }
    }
    for (size_t i = 0; i < messages.size(); ++i) {
      const ChatMessage& message = messages[i];
      const bool last = i + 1 == messages.size();
      if (message.role == "assistant") {
        chat.text += "<|im_start|>assistant\n";
        const size_t begin = chat.text.size();
        Block block = Block::kNever;
        if (i > last_query) block = last ? Block::kAlways : Block::kIfAnyThinking;
        if (purpose == Purpose::kTraining) block = Block::kAlways;
        append_answer(chat.text, message, block);
        chat.trained.emplace_back(begin, chat.text.size());
      } else if (message.role == "tool") {
        if (i == 0 || messages[i - 1].role != "tool") chat.text += "<|im_start|>user";
        chat.text += "\n<tool_response>\n" + message.content + "\n</tool_response>";
        if (last || messages[i + 1].role != "tool") chat.text += "<|im_end|>\n";
      } else if (message.role == "user" || i > 0) {  // a leading system message is written already
        chat.text += "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>\n";
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
    text += kToolsBegin;
    for (const OrderedJson& tool : tools) {
      text += '\n';
      text += to_python_json(tool);
    }
    text += kToolsEnd;
  }

  void append_answer(std::string& text, const ChatMessage& message, Block block) const {
    Answer answer{"", message.content};
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

}  // namespace

std::unique_ptr<ChatTemplate> make_qwen3_chat(QwenThinking thinking) {
  return std::make_unique<Qwen3Chat>(thinking);
}

}  // namespace moraine
