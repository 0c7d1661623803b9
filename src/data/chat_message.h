// The messages of one conversation, checked and typed: what every chat format's encoder starts from.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace moraine {

struct ToolCall {
  std::string name;
  OrderedJson arguments;  // a string (printed as it is) or any JSON value
};

struct ChatMessage {
  std::string role;
  std::string content;                           // "" when null: only an assistant's may be
  std::optional<std::string> reasoning_content;  // an assistant's thinking, when it has a key of its own
  std::vector<ToolCall> tool_calls;              // an assistant's only
};

// Reads an array of {"role", "content", "reasoning_content"?, "tool_calls"?}. `content` is text or a list of
// {"type": "text", "text"} parts, which are joined. A tool call is {"function": {"name", "arguments"}} or the inner
// object itself. Throws an input error (where = `where`) that names the message: a role not in `roles`, content that is
// not text, an assistant's message with nothing in it, a call without name or arguments, no message at all.
std::vector<ChatMessage> read_chat_messages(const OrderedJson& messages, const std::vector<std::string>& roles,
                                            const std::string& where);

// Throws an input error unless `tools` is null or an array of objects.
void check_tools(const OrderedJson& tools, const std::string& where);

}  // namespace moraine
