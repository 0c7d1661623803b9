// Rows of the data formats in use turned into messages. Errors come without the row's place (at_place.h).
#pragma once

#include <map>
#include <string>

#include "base/json.h"
#include "config/recipe.h"

namespace moraine {

enum class DataFormat {  // data.format; prompt_completion is two of them
  kMessages,
  kShareGpt,
  kAlpaca,
  kPromptMessages,  // prompt and completion are messages
  kPromptText,      // … are texts
  kText,
  kTokens
};

// Whether rows of a format are rendered by a chat template.
bool needs_chat_template(DataFormat format);

struct ChatRow {
  OrderedJson messages;  // array of {"role", "content", …}
  OrderedJson tools;     // array or null
};

// The format of a row by its keys: messages, conversations, instruction, prompt and completion, or text. Throws an
// input error that lists them.
DataFormat format_of_row(const OrderedJson& row);

// The conversation in a row of a format that needs a chat template. Roles and contents are checked by the template.
//   messages  {"messages": […], "tools": […]?}; tools may also be a JSON string.
//   sharegpt  {"conversations": [{"from", "value"}], "system"?, "tools"?}; from: human or user, gpt or assistant,
//   system,
//             tool or observation, function_call (a JSON object or list of {"name", "arguments"}, after
//             <think>…</think> if any: it becomes an assistant's tool calls, the thinking its reasoning_content).
//             Entries with "role" and "content" are
//             messages as they are; the flags weight, train and loss stay. A tool without the {"type": "function",
//             "function": …} around it gets it.
//   alpaca    {"instruction", "input"?, "output", "system"?, "history"? ([[question, answer], …])}; instruction and
//   input
//             are joined by a newline.
//   prompt_completion  {"prompt": […], "completion": […], "tools"?}: one conversation, of which the prompt's answers
//   are kept out
//             of training by their flag "train" where `only_completion`.
ChatRow chat_of_row(DataFormat format, OrderedJson row, bool only_completion = true);

// A row of kPromptText.
struct PromptText {
  std::string prompt, completion;
};
PromptText prompt_text_of_row(const OrderedJson& row);

// data.variables, values as text. Throws an input error on a value that is neither text nor a number or boolean.
std::map<std::string, std::string> read_variables(const DataConfig& config);

// Replaces {{NAME}} by variables[NAME] in every content, also of the tool_result parts of one, reasoning_content and
// reasoning, once: values are not searched again. What still looks like one, {{NAME}} of two or more upper-case
// letters, digits or _, is an input error with the way to set it (so that "{{ x }}" and maths like {{A}} in a chat stay
// as they are).
void fill_variables(OrderedJson& messages, const std::map<std::string, std::string>& variables);

}  // namespace moraine
