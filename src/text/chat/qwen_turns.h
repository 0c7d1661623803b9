// What the chat formats of the Qwen families share: thinking that is written inside of an answer, tools' results as
// parts of user turns, and where the last exchange begins.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat/chat_encoder.h"
#include "text/chat/chat_message.h"

namespace moraine {

enum class QwenPurpose {
  kInference,  // as the released template: thinking before the last query is gone
  kTraining,   // every turn keeps its thinking block, an empty one when it has no thinking
};

std::string_view strip_newlines_left(std::string_view text);
std::string_view strip_newlines_right(std::string_view text);

// Whether `jinja` holds each of the words, or one of them.
bool mentions_all(std::string_view jinja, std::initializer_list<std::string_view> words);
bool mentions_any(std::string_view jinja, std::initializer_list<std::string_view> words);

// What an assistant thinks and says; views into the message.
struct QwenAnswer {
  std::string_view thinking, content;
};

// The message's reasoning_content, or thinking that stands in its content up to the last </think> and is taken out.
QwenAnswer split_thinking(const ChatMessage& message);

// The last user message that is not the result of a tool: answers after it belong to the running exchange and keep
// their thinking. nullopt when there is none.
std::optional<size_t> last_query(const std::vector<ChatMessage>& messages);

// Message `index`, the result of a tool, as a part of a user turn that holds all results in a row.
void append_tool_result(ChatText& chat, const std::vector<ChatMessage>& messages, size_t index);

}  // namespace moraine
