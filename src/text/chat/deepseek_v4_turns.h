// A conversation as the turns that DeepSeek-V4's format renders.
#pragma once

#include <string>
#include <vector>

#include "text/chat/deepseek_v4_message.h"

namespace moraine::deepseek_v4 {

// The turns of `messages`. `tools`, an array or null, come first as a system message of their own. Users' messages and
// results of tools that follow each other become one turn, whose results are put in the order of the calls they answer
// (a result without an id counts as the first call's).
//
// Throws an input error that names the message, not the row, on what read_message refuses, a result without a call
// before it, and a task that merging would lose.
std::vector<Message> read_turns(const OrderedJson& messages, const OrderedJson& tools);

}  // namespace moraine::deepseek_v4
