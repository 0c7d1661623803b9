// A conversation for DeepSeek-V4's format: its messages checked, typed, and merged into the turns that are rendered.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"

namespace moraine::deepseek_v4 {

enum class Role { kSystem, kDeveloper, kUser, kLatestReminder, kAssistant };

struct Call {
  std::string name, id;   // id: "" when the message has none
  OrderedJson arguments;  // an object
};

// A piece of a user's turn: text, or the result of a call.
struct UserBlock {
  std::string text;
  bool is_result = false;
  std::string call_id;  // a result's; "" when the message has none
};

struct Message {
  Role role = Role::kSystem;
  std::string place;               // for errors: the row and which of its messages
  std::string content;             // of every role but user
  std::vector<UserBlock> blocks;   // a user's
  std::string reasoning;           // an assistant's
  std::vector<Call> calls;         // an assistant's
  std::vector<OrderedJson> tools;  // schemas of functions; a system's or developer's
  OrderedJson response_format;     // a JSON schema or null; a system's or developer's
  std::string task;                // "": none
  bool wo_eos = false;             // an assistant's: the turn is not ended
};

// The turns of a conversation.
//
//   role             keys besides content
//   system           tools, response_format
//   developer        tools, response_format; content must not be empty
//   user             content may be a list of {"type": "text", "text"} and {"type": "tool_result", "tool_use_id",
//                    "content"}
//   latest_reminder
//   assistant        reasoning_content or reasoning, tool_calls ({"id", "function": {"name", "arguments"}}, or the inner
//                    object itself; arguments are an object or one as JSON text), wo_eos
//   tool             tool_call_id
//   all but tool     task
//
// Other content may be a list of texts; lists are joined by empty lines. `tools`, an array or null, come as a system
// message of their own before all others. Tool messages and users' messages that follow each other become one user's
// turn, whose results are put in the order of the calls they answer (ids that are missing count as the first's).
//
// Throws an input error that names the message (where = `where`) on anything else: wrong types, an unknown role or task,
// a result without a call before it, a task that merging would lose.
std::vector<Message> read_conversation(const OrderedJson& messages, const OrderedJson& tools, const std::string& where);

}  // namespace moraine::deepseek_v4
