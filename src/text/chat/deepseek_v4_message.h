// One message of a conversation for DeepSeek-V4's format, checked and typed.
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
  std::string place;               // for errors: which message of the row; "" for none of them
  std::string content;             // of every role but user
  std::vector<UserBlock> blocks;   // a user's
  std::string reasoning;           // an assistant's
  std::vector<Call> calls;         // an assistant's
  std::vector<OrderedJson> tools;  // schemas of functions; a system's or developer's
  OrderedJson response_format;     // a JSON schema or null; a system's or developer's
  std::string task;                // "": none
  bool wo_eos = false;             // an assistant's: the turn is not ended
  bool is_trained = true;          // an assistant's: false when a flag of the message says so
};

// Reads a message:
//
//   role             keys besides content
//   system           tools, response_format
//   developer        tools, response_format; content must not be empty
//   user             content may be a list of {"type": "text", "text"} and {"type": "tool_result", "tool_use_id",
//                    "content"}
//   latest_reminder
//   assistant        reasoning_content or reasoning, tool_calls, wo_eos. A call is {"id", "function": {"name",
//                    "arguments"}} or the inner object itself; arguments are an object, or one as JSON text
//   tool             tool_call_id; becomes a user's message of one result
//   all but tool     task
//   all              the flags of read_train_flag
//
// Other content may be a list of texts; lists are joined by empty lines. Keys that are not of the role are refused
// where they would change what the model sees. Throws an input error without a place on anything else, wrong types
// included. The caller says the message's place.
Message read_message(const OrderedJson& json);

// The functions of an array of tools: {"type": "function", "function": {…}} or the inner object itself.
std::vector<OrderedJson> read_tools(const OrderedJson& tools);

}  // namespace moraine::deepseek_v4
