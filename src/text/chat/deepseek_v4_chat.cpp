#include "text/chat/deepseek_v4_chat.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "text/chat/chat_turns.h"
#include "text/chat/deepseek_v4_dsml.h"
#include "text/chat/deepseek_v4_turns.h"
#include "text/chat/tojson.h"
#include "text/tokenizer/at_place.h"

namespace moraine {
namespace deepseek_v4 {
namespace {

constexpr std::string_view kMaxEffort =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, "
    "rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered "
    "alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n";

bool asks(Role role) { return role == Role::kUser || role == Role::kDeveloper; }

// -1 when nobody asks.
ptrdiff_t last_question(const std::vector<Message>& messages) {
  ptrdiff_t i = static_cast<ptrdiff_t>(messages.size()) - 1;
  while (i >= 0 && !asks(messages[i].role)) --i;
  return i;
}

// What system's and developer's messages say.
std::string instructions(const Message& message) {
  std::string text = message.content;
  if (!message.tools.empty()) text += "\n\n" + describe_tools(message.tools);
  if (!message.response_format.is_null()) {
    text += "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";
    text += to_python_json(message.response_format);
  }
  return text;
}

void append_user(ChatText& chat, const Message& message) {
  for (const UserBlock& block : message.blocks) {
    if (&block != &message.blocks.front()) chat.text += "\n\n";
    if (block.is_result) chat.text += "<tool_result>";
    chat.append_foreign(block.text);
    if (block.is_result) chat.text += "</tool_result>";
  }
}

std::string answer_text(const Message& message, bool with_thinking) {
  std::string text;
  if (with_thinking) {
    refuse_control_tokens(message.reasoning, "the thinking");
    for (std::string_view tag : {kThinkBegin, kThinkEnd}) {
      if (message.reasoning.find(tag) == std::string::npos) continue;
      throw row_error(fmt::format("the thinking holds {}", tag), "it is given without its tags");
    }
    text.append(message.reasoning).append(kThinkEnd);
  }
  refuse_control_tokens(message.content, "content");
  text += message.content;
  if (!message.calls.empty()) text += write_calls(message.calls);
  if (!message.wo_eos) text += kEndOfSentence;
  return text;
}

struct Rendered {
  ChatText chat;
  bool awaits_answer = false;  // ends where an assistant goes on
};

class DeepseekV4Chat final : public ChatEncoder {
 public:
  explicit DeepseekV4Chat(const DeepseekV4Options& options)
      : options_(options), thinks_(options.thinking_mode == ThinkingMode::kThinking) {}

  ChatText training_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return render(messages, tools).chat;
  }

  ChatText turn_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return only_last_turn(render(messages, tools).chat, *this, messages, tools);
  }

  std::string inference_text(const OrderedJson& messages, const OrderedJson& tools) const override {
    return render(messages, tools).chat.text;
  }

  // The released encoder ends a question's turn with the prompt for its answer, so the conversation is ready already
  // unless it ends with an answer or with no question at all.
  std::string generation_prompt(const OrderedJson& messages, const OrderedJson& tools) const override {
    Rendered rendered = render(messages, tools);
    if (!rendered.awaits_answer) append_prompt(rendered.chat.text, thinks_);
    return rendered.chat.text;
  }

 private:
  static void append_prompt(std::string& text, bool with_thinking) {
    text.append(kAssistant).append(with_thinking ? kThinkBegin : kThinkEnd);
  }

  void append_task(std::string& text, const std::string& task) const {
    if (task == "action") append_prompt(text, thinks_);
    text.append("<｜").append(task).append("｜>");
  }

  Rendered render(const OrderedJson& json, const OrderedJson& tools) const {
    std::vector<Message> messages = read_turns(json, tools);
    const auto has_tools = [](const Message& message) { return !message.tools.empty(); };
    const bool drops = thinks_ && options_.drop_thinking && std::none_of(messages.begin(), messages.end(), has_tools);
    if (drops) {
      const auto before_last = messages.begin() + std::max<ptrdiff_t>(last_question(messages), 0);
      messages.erase(std::remove_if(messages.begin(), before_last,
                                    [](const Message& message) { return message.role == Role::kDeveloper; }),
                     before_last);
    }
    const ptrdiff_t last = last_question(messages), count = static_cast<ptrdiff_t>(messages.size());

    Rendered rendered;
    std::string& text = rendered.chat.text;
    text = kBeginOfSentence;
    if (thinks_ && options_.max_effort) text += kMaxEffort;
    for (ptrdiff_t i = 0; i < count; ++i) {
      const Message& message = messages[i];
      const bool with_thinking = thinks_ && (!drops || i >= last);
      switch (message.role) {
        case Role::kSystem:
          text += instructions(message);
          rendered.awaits_answer = false;
          break;
        case Role::kDeveloper:
          text.append(kUser).append(instructions(message));
          break;
        case Role::kUser:
          text.append(kUser);
          append_user(rendered.chat, message);
          break;
        case Role::kLatestReminder:  // may stand between a prompt and its answer
          text.append(kLatestReminder).append(message.content);
          break;
        case Role::kAssistant: {
          const size_t begin = text.size();
          const bool answers_task = i > 0 && !messages[i - 1].task.empty();
          text += at_place(message.place, [&] { return answer_text(message, with_thinking && !answers_task); });
          // What has lost its thinking is context, not an answer.
          if (drops && i <= last && message.is_trained) ++rendered.chat.changed_turns;
          if (!drops || i > last) {
            rendered.chat.add_answer(begin, message);
          } else if (!message.is_trained) {
            rendered.chat.withheld.emplace_back(begin, text.size());
          }
          rendered.awaits_answer = message.wo_eos;
          break;
        }
      }
      // Only what an answer follows, or nothing yet, ends with a prompt for it.
      const bool answered =
          i + 1 == count || messages[i + 1].role == Role::kAssistant || messages[i + 1].role == Role::kLatestReminder;
      if (!message.task.empty()) {
        if (!answered) throw input_error(message.place, "task without an answer after it");
        append_task(text, message.task);
        rendered.awaits_answer = true;
      } else if (asks(message.role)) {
        if (answered) append_prompt(text, with_thinking);
        rendered.awaits_answer = answered;
      }
    }
    return rendered;
  }

  DeepseekV4Options options_;
  bool thinks_;
};

}  // namespace
}  // namespace deepseek_v4

DeepseekV4Options read_deepseek_v4_options(const Json& options) {
  DeepseekV4Options result;
  for (const auto& [key, value] : options.items()) {
    const std::string where = "data.template_options." + key;
    if (key == "thinking_mode") {
      if (value != "chat" && value != "thinking") throw input_error(where, "is chat or thinking");
      result.thinking_mode = value == "chat" ? deepseek_v4::ThinkingMode::kChat : deepseek_v4::ThinkingMode::kThinking;
    } else if (key == "drop_thinking") {
      if (!value.is_boolean()) throw input_error(where, "not true or false");
      result.drop_thinking = value.get<bool>();
    } else if (key == "reasoning_effort") {
      if (!value.is_null() && value != "high" && value != "max") throw input_error(where, "is max, high or null");
      result.max_effort = value == "max";
    }
  }
  return result;
}

std::unique_ptr<ChatEncoder> make_deepseek_v4_chat(const DeepseekV4Options& options) {
  return std::make_unique<deepseek_v4::DeepseekV4Chat>(options);
}

}  // namespace moraine
