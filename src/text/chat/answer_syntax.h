// The ways in which models write thinking and tool calls, read back into messages.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace moraine {

// What surrounds an answer.
struct AnswerFrame {
  std::string_view prompt;       // what it follows: the end of it says whether thinking is open
  std::string end_of_turn = "";  // what ends it; "": nothing certain
  bool may_lack_end = false;     // text without end_of_turn is whole (a block of calls always is)
  OrderedJson tools = nullptr;   // an array or null: types of arguments that a syntax writes as bare text
};

struct AnswerSyntax {
  std::string name;
  // {"role": "assistant", "content", "reasoning_content", "tool_calls": [{"type": "function", "function": {"name",
  // "arguments"}}]}, arguments as JSON text; "id" too where the syntax writes one. Newlines between the parts are the
  // syntax's. Throws an input error without the row's place that says why on anything malformed: nothing is repaired.
  OrderedJson (*parse)(std::string_view answer, const AnswerFrame& frame);
};

//   hermes        <tool_call>{"name", "arguments"}</tool_call>                  Hermes, Qwen2.5, Qwen3, Granite 4
//   qwen3_coder   <tool_call><function=NAME><parameter=KEY>…                    Qwen3-Coder, Qwen3.5 to 3.8, Nemotron 3
//   glm           <tool_call>NAME<arg_key>KEY</arg_key><arg_value>…             GLM-4.5 to 4.7
//   minimax_m2    <minimax:tool_call><invoke name="NAME"><parameter name="KEY">…
//   seed_oss      <seed:tool_call><function=NAME><parameter=KEY>…
//   kimi_k2       <|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|>
//   gpt_oss       harmony: <|channel|>analysis<|message|>…<|end|>, … to=functions.NAME …<|message|>{…}<|call|>
//   deepseek_v4   DSML
//   deepseek_v3   <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME and a block of JSON      DeepSeek-V3, R1
//   deepseek_v3_1 <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}<｜tool▁call▁end｜>
//   mistral       [TOOL_CALLS][{"name", "arguments", "id"}], or [TOOL_CALLS]NAME[CALL_ID]ID[ARGS]{…}
//   llama3        {"name", "parameters"}, after <|python_tag|> or alone               Llama 3.1 to 3.3
//   llama4        the same, after <|python_start|>…<|python_end|> or alone
//   gemma4        <|tool_call>call:NAME{KEY:VALUE,…}<tool_call|>
//   command       <|START_ACTION|>[{"tool_call_id", "tool_name", "parameters"}]<|END_ACTION|>   Command-R7B, Command-A
//
// qwen3_coder, glm, minimax_m2 and seed_oss write arguments as bare text. It is what the schema of `tools` says:
// numbers, booleans, null, lists and objects are read as JSON, or as Python prints them; everything else, and every
// argument without a type there, is text.
const std::vector<AnswerSyntax>& answer_syntaxes();

// nullptr when there is none of this name.
const AnswerSyntax* find_answer_syntax(std::string_view name);
std::vector<std::string> answer_syntax_names();

}  // namespace moraine
