// What DeepSeek-V4 answered, taken apart.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "text/chat/chat_encoder.h"
#include "text/chat/deepseek_v4_tokens.h"

namespace moraine::deepseek_v4 {

// {"role": "assistant", "content", "reasoning_content", "tool_calls"} of what a model wrote after its generation
// prompt, the end of the sentence included, which a whole block of tool calls may do without, and with `may_lack_end`
// any answer; tool calls as read_calls gives them. Throws an input error without a place that says why on anything
// malformed: nothing is repaired. What the encoder writes for an assistant's message comes back as that message, unless
// its content holds <think> or </think>.
OrderedJson parse_completion(std::string_view completion, ThinkingMode mode, bool may_lack_end = false);

// parse_completion for the completion in `row`, whose own thinking_mode goes before that of `options`
// (read_deepseek_v4_options). Throws an input error without a place on a thinking_mode of the row that is none.
CompletionParser make_parser(const Json& options, const OrderedJson& row, bool may_lack_end);

}  // namespace moraine::deepseek_v4
