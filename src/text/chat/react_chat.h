// The agent format: tools told and called in plain text (ReAct, https://arxiv.org/abs/2210.03629), for models whose own
// format knows none, rendered by the format of the model.
#pragma once

#include <memory>
#include <string>

#include "base/json.h"
#include "text/chat/chat_encoder.h"

namespace moraine {

// `messages` with roles and tools turned into plain system, user and assistant text:
//   system     the first system message, then the tools and the format (those only when there are tools)
//   assistant  "Thought: <reasoning_content>", then for every call "Action: <name>\nAction Input: <arguments as JSON>",
//              and else "Final Answer: <content>" (the bare content in a conversation without tools). With calls the
//              content is the thought when there is no reasoning_content, and left out when there is; with tools,
//              thinking inside of <think> in the content is the thought. Content that begins as the format does, with
//              one of these words, stays as it is when it is alone; a thought that begins with "Thought:" gets no
//              second one. A reasoning_content of "" is none.
//   user       a tool's results in a row are one user turn, a line "Observation: <content>" each
// Flags that keep a message out of training stay. Throws an input error without the row's place on messages and tools
// that the format cannot express: besides what read_chat_messages refuses, a result without a call, a tool without a
// name, with tools a system message that is not the first, an action or a final answer in content beside tool calls,
// and <think> or </think> left in text that was put together here.
OrderedJson to_react_messages(const OrderedJson& messages, const OrderedJson& tools);

// Renders to_react_messages by `base`, which never sees a tool.
std::unique_ptr<ChatEncoder> make_react_chat(std::unique_ptr<ChatEncoder> base);

}  // namespace moraine
