#include "text/chat/deepseek_v4_chat.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/path.h"
#include "text/chat/chat_turns.h"
#include "text/chat/deepseek_v4_dsml.h"
#include "text/chat/deepseek_v4_turns.h"
#include "text/chat/tojson.h"
#include "text/tokenizer/at_place.h"

namespace moraine {
namespace deepseek_v4 {
namespace {

constexpr std::string_view kAbsoluteMaximum =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, "
    "rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered "
    "alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n";
constexpr std::string_view kBeyondMaximum =
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the "
    "problem into its most fundamental components, trace every causal chain to its root, and resolve the underlying "
    "cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple angles and are certain "
    "that no assumption remains unchecked and no error remains undiscovered.\n\n";

// The levels of reasoning_effort in a profile, and their words.
using Levels = std::vector<std::pair<std::string, std::string_view>>;
Levels levels_of(std::string_view profile) {
  if (profile == "preview") return {{"high", ""}, {"max", kAbsoluteMaximum}};
  return {{"low", ""}, {"high", kAbsoluteMaximum}, {"max", kBeyondMaximum}};
}

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
    if (thinks_) text += options_.effort;
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

std::string_view effort_words(const Json& level, const Json& profile) {
  const std::string where = "data.template_options.reasoning_effort",
                    differ = "its levels differ between releases, and no encoding/encoding_dsv4.py says which this is",
                    way =
                        "reasoning_effort_profile: preview (DeepSeek-V4-Flash and -Pro as first released) or "
                        "official (from V4-Flash-0731 and V4-Pro-0813 on)";
  std::vector<std::string> names;
  for (const auto& [name, words] : levels_of(profile.is_null() ? "preview" : profile.get<std::string>())) {
    if (level == name) {
      if (profile.is_null()) log_warning(fmt::format("{}: {}: taken as preview's (say {})", where, differ, way));
      return words;
    }
    names.push_back(name);
  }
  if (profile.is_null()) throw input_error(where, differ, way);
  throw input_error(where,
                    fmt::format("is {} or null (profile {})", fmt::join(names, ", "), profile.get<std::string>()));
}

// Whether a line of Python defines `name`.
bool defines(std::string_view python, std::string_view name) {
  for (size_t at = python.find(name); at != python.npos; at = python.find(name, at + 1)) {
    const std::string_view behind = python.substr(at + name.size());
    if ((at == 0 || python[at - 1] == '\n') && (behind.starts_with(" =") || behind.starts_with(':'))) return true;
  }
  return false;
}

}  // namespace
}  // namespace deepseek_v4

DeepseekV4Options read_deepseek_v4_options(const Json& options) {
  DeepseekV4Options result;
  const Json profile = options.value("reasoning_effort_profile", Json());
  if (!profile.is_null() && profile != "preview" && profile != "official")
    throw input_error("data.template_options.reasoning_effort_profile", "is preview or official");
  for (const auto& [key, value] : options.items()) {
    const std::string where = "data.template_options." + key;
    if (key == "thinking_mode") {
      if (value != "chat" && value != "thinking") throw input_error(where, "is chat or thinking");
      result.thinking_mode = value == "chat" ? deepseek_v4::ThinkingMode::kChat : deepseek_v4::ThinkingMode::kThinking;
    } else if (key == "drop_thinking") {
      if (!value.is_boolean()) throw input_error(where, "not true or false");
      result.drop_thinking = value.get<bool>();
    } else if (key == "reasoning_effort" && !value.is_null()) {
      result.effort = deepseek_v4::effort_words(value, profile);
    }
  }
  return result;
}

Json deepseek_v4_checkpoint_options(const std::filesystem::path& model_folder) {
  const std::filesystem::path file = model_folder / "encoding" / "encoding_dsv4.py";
  if (!path_exists(file)) return Json::object();
  const std::string encoder = read_text_file(file);
  const bool preview = deepseek_v4::defines(encoder, "REASONING_EFFORT_MAX");
  const bool official = deepseek_v4::defines(encoder, "REASONING_EFFORT_PROMPTS");
  if (preview == official) return Json::object();
  return {{"reasoning_effort_profile", preview ? "preview" : "official"}};
}

std::unique_ptr<ChatEncoder> make_deepseek_v4_chat(const DeepseekV4Options& options) {
  return std::make_unique<deepseek_v4::DeepseekV4Chat>(options);
}

}  // namespace moraine
