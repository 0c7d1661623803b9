// The messages of one conversation, checked and typed: what every chat format's encoder starts from. Errors come
// without the row's place (at_place.h).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
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
  bool is_trained = true;                        // an assistant's: false when a flag of the message says so
};

// Whether a call may lack its arguments: kOptional reads {} then.
enum class Arguments { kRequired, kOptional };

// The member `key` of an object; nullptr when it is missing or null.
const OrderedJson* find_member(const OrderedJson& object, const char* key);

// Reads an array of {"role", "content", "reasoning_content"?, "tool_calls"?}. `content` is text or a list of
// {"type": "text", "text"} parts, which are joined. An assistant's thinking may also be called `reasoning`, as some
// servers and `moraine tokenize --parse` do. A tool call is {"function": {"name", "arguments"}} or the inner object
// itself. Throws an input error that names the message: a role not in `roles`, content that is not text, an assistant's
// message with nothing in it, reasoning_content and reasoning that differ, a call without name or needed arguments,
// what read_train_flag refuses, no message at all.
std::vector<ChatMessage> read_chat_messages(const OrderedJson& messages, const std::vector<std::string>& roles,
                                            Arguments needed = Arguments::kRequired);

// Whether a message's own flags let it be trained: "weight": 0 (OpenAI's files), "train": false (axolotl's) or "loss":
// false (ms-swift's) keep it out. Throws an input error on other values, flags that contradict each other, and a
// flag that would train another role than the assistant.
bool read_train_flag(const OrderedJson& message);

// An input error about message `index` of the conversation.
Error message_error(size_t index, const std::string& what, const std::string& hint = "");

// Throws an input error that names a message of role tool whose exchange has no call: what comes before it and other
// results is not an assistant's message with tool calls, nor one with `call_mark`, the text of a call, in its content.
void check_tool_results(const std::vector<ChatMessage>& messages, std::string_view call_mark);

// Throws an input error unless `tools` is null or an array of objects.
void check_tools(const OrderedJson& tools);

}  // namespace moraine
