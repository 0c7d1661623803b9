// What DeepSeek-V4 answered, taken apart.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "data/deepseek_v4_tokens.h"

namespace moraine::deepseek_v4 {

// {"role": "assistant", "content", "reasoning", "tool_calls"} of what a model wrote after its generation prompt, the
// end of the sentence included, which a whole block of tool calls may do without; tool calls as read_calls gives them. Throws an input error that says why (where =
// `where`) on anything malformed: nothing is repaired. What the encoder writes for an assistant's message comes back as that
// message, unless its content holds <think> or </think>.
OrderedJson parse_completion(std::string_view completion, ThinkingMode mode, const std::string& where);

}  // namespace moraine::deepseek_v4
