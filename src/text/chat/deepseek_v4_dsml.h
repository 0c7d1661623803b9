// DSML, the markup of DeepSeek-V4's tool calls: written, read, and explained to the model. Errors are input errors
// without a place.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/chat/deepseek_v4_message.h"

namespace moraine::deepseek_v4 {

// How a block of calls begins after what the assistant says, and how it ends.
inline constexpr std::string_view kCallsBegin = "\n\n<｜DSML｜tool_calls>\n", kCallsEnd = "</｜DSML｜tool_calls>";

// The calls as text, from kCallsBegin on: a parameter for each argument, texts as they are (string="true"), all else as
// JSON. Nothing is escaped, so what could not be read back is an error: a control token of the format in a name or a
// value, a name that ends its own tag.
std::string write_calls(const std::vector<Call>& calls);

// The calls of a block, `text` being all after kCallsBegin: an array of {"type": "function", "function": {"name",
// "arguments"}}, arguments as JSON text. All but what write_calls writes is an error, spaces within JSON excepted: a
// parameter without its type or given twice, anything unclosed, anything after the block.
OrderedJson read_calls(std::string_view text);

// What a system's or developer's message says about its tools.
std::string describe_tools(const std::vector<OrderedJson>& functions);

// Throws when `text`, which is `what` of an assistant's message, holds a token that the parser would take for the
// format's: the begin or end of a sentence, DSML.
void refuse_control_tokens(std::string_view text, const char* what);

}  // namespace moraine::deepseek_v4
