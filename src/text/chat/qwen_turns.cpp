#include "text/chat/qwen_turns.h"

#include <algorithm>

namespace moraine {
namespace {

constexpr std::string_view kThinkBegin = "<think>", kThinkEnd = "</think>";

// Results of tools may also come as user messages that are written in the format.
bool is_query(const ChatMessage& message) {
  return message.role == "user" &&
         !(message.content.starts_with("<tool_response>") && message.content.ends_with("</tool_response>"));
}

}  // namespace

std::string_view strip_newlines_left(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  return text;
}

std::string_view strip_newlines_right(std::string_view text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);  // npos + 1 == 0
}

bool mentions_all(std::string_view jinja, std::initializer_list<std::string_view> words) {
  return std::all_of(words.begin(), words.end(), [&](std::string_view word) { return jinja.find(word) != jinja.npos; });
}

bool mentions_any(std::string_view jinja, std::initializer_list<std::string_view> words) {
  return std::any_of(words.begin(), words.end(), [&](std::string_view word) { return jinja.find(word) != jinja.npos; });
}

QwenAnswer split_thinking(const ChatMessage& message) {
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

std::optional<size_t> last_query(const std::vector<ChatMessage>& messages) {
  const auto found = std::find_if(messages.rbegin(), messages.rend(), is_query);
  if (found == messages.rend()) return std::nullopt;
  return static_cast<size_t>(messages.rend() - found) - 1;
}

void append_tool_result(ChatText& chat, const std::vector<ChatMessage>& messages, size_t index) {
  if (index == 0 || messages[index - 1].role != "tool") chat.text += "<|im_start|>user";
  chat.text += "\n<tool_response>\n";
  chat.append_foreign(messages[index].content);
  chat.text += "\n</tool_response>";
  if (index + 1 == messages.size() || messages[index + 1].role != "tool") chat.text += "<|im_end|>\n";
}

}  // namespace moraine
