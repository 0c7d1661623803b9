#include "text/chat/answer_families.h"

#include "base/error.h"
#include "text/chat/answer_text.h"
#include "text/chat/tojson.h"
#include "text/tokenizer/at_place.h"

namespace moraine {
namespace {

constexpr std::string_view kPythonBegin = "<|python_start|>", kPythonEnd = "<|python_end|>";

void refuse_no_calls(const OrderedJson& calls) {
  if (calls.empty()) throw row_error("a list of tool calls without a call");
}

// Whether a call as JSON begins here: {"name": "NAME", "parameters":
bool begins_call(AnswerCursor cursor) {
  for (std::string_view part : {"{", "\"name\"", ":", "\""}) {
    cursor.skip_space();
    if (!cursor.take(part)) return false;
  }
  const std::string_view rest = cursor.rest();
  const size_t quote = rest.find('"');
  if (quote == rest.npos) return false;
  cursor.take(rest.substr(0, quote + 1));
  for (std::string_view part : {",", "\"parameters\"", ":"}) {
    cursor.skip_space();
    if (!cursor.take(part)) return false;
  }
  return true;
}

// Objects one after the other, with semicolons between them or without.
OrderedJson read_parameter_calls(AnswerCursor& cursor) {
  OrderedJson calls = OrderedJson::array();
  for (cursor.skip_space(); !cursor.at_end(); cursor.skip_space()) {
    if (!calls.empty() && cursor.take(";")) cursor.skip_space();
    calls.push_back(
        tool_call_of(parse_exact_json(cursor.take_object("expected a tool call"), "tool call"), "parameters"));
  }
  return calls;
}

// NAME.call(key="value", …), as Llama 3 calls its own tools: values are bare text.
OrderedJson read_built_in_call(AnswerCursor& cursor) {
  const std::string name(cursor.take_until(".call(", "expected a tool call after <|python_tag|>"));
  if (name.find_first_of(" \n\"(") != name.npos) throw row_error("a tool call without its name");
  OrderedJson arguments = OrderedJson::object();
  while (!cursor.take(")")) {
    if (!arguments.empty()) cursor.expect(", ", "expected another argument or the end of the call");
    const std::string key(cursor.take_until("=\"", "an argument's name that does not end"));
    if (arguments.contains(key)) throw row_error("the argument " + quoted_for_error(key) + " is given twice");
    arguments[key] = cursor.take_until("\"", {",", ")"}, "an argument that is not closed");
  }
  cursor.skip_space();
  if (!cursor.at_end()) cursor.refuse("text after the tool call");
  return OrderedJson::array({tool_call(name, to_python_json(arguments))});
}

// The message of an answer whose calls are all of it.
OrderedJson message_of(const SplitAnswer& split, const AnswerFrame& frame, std::string_view content,
                       OrderedJson calls) {
  check_end(split.is_ended, frame, calls);
  return answer_message(content, split.reasoning, std::move(calls));
}

OrderedJson read_mistral_calls(AnswerCursor& cursor, const OrderedJson&) {
  OrderedJson calls = OrderedJson::array();
  for (; !cursor.at_end(); cursor.skip_space()) {
    cursor.expect("[TOOL_CALLS]", "text after the tool calls");
    cursor.skip_space();
    if (cursor.rest().starts_with('[')) {
      const OrderedJson list = parse_exact_json(cursor.take_list("expected a list of calls"), "tool calls");
      refuse_no_calls(list);
      for (const OrderedJson& call : list) calls.push_back(tool_call_of(call, "arguments", "name", "id"));
      continue;
    }
    const std::string head(cursor.take_until("[ARGS]", "a tool call without arguments"));
    const size_t id = head.find("[CALL_ID]");
    OrderedJson call = OrderedJson::object();
    if (id != head.npos) call["id"] = head.substr(id + std::string_view("[CALL_ID]").size());
    cursor.skip_space();
    call.update(
        tool_call(std::string_view(head).substr(0, id), cursor.take_object("expected a JSON object of arguments")));
    calls.push_back(std::move(call));
  }
  return calls;
}

constexpr std::string_view kCallsBegin = "<｜tool▁calls▁begin｜>", kCallsEnd = "<｜tool▁calls▁end｜>";

// `has_type`: function<sep>NAME and a block of code, else NAME<sep> and the arguments. The template of DeepSeek-V3
// writes no end of calls where there is one.
template <bool has_type>
OrderedJson read_deepseek_calls(AnswerCursor& cursor, const OrderedJson&) {
  OrderedJson calls = OrderedJson::array();
  cursor.expect(kCallsBegin, "expected tool calls");
  for (cursor.skip_space(); !cursor.at_end() && !cursor.rest().starts_with(kCallsEnd); cursor.skip_space()) {
    cursor.expect("<｜tool▁call▁begin｜>", "expected a tool call or the end of them");
    std::string_view name = cursor.take_until("<｜tool▁sep｜>", "a tool call without its name");
    if (has_type) {
      if (name != "function") throw row_error("a tool call of another type than function");
      name = cursor.take_until("\n```json\n", "a tool call without arguments");
    }
    cursor.skip_space();
    calls.push_back(tool_call(name, cursor.take_object("expected a JSON object of arguments")));
    cursor.skip_space();
    if (has_type) cursor.expect("```", "expected the end of the arguments");
    cursor.expect("<｜tool▁call▁end｜>", "expected the end of the tool call");
  }
  cursor.take(kCallsEnd);
  if (calls.empty()) throw row_error("a block of tool calls without a call");
  cursor.skip_space();
  if (!cursor.at_end()) cursor.refuse("text after the tool calls");
  return calls;
}

// Gemma's own notation of values: texts between <|"|>, names of members bare.
class GemmaReader {
 public:
  explicit GemmaReader(AnswerCursor& cursor) : cursor_(cursor) {}

  OrderedJson members(int depth = 0) {
    OrderedJson made = OrderedJson::object();
    cursor_.expect("{", "expected arguments");
    while (!cursor_.take("}")) {
      if (!made.empty()) cursor_.expect(",", "expected another argument or the end of them");
      const std::string key(cursor_.take(kQuote) ? quoted_key()
                                                 : cursor_.take_until(":", "an argument without a value"));
      if (made.contains(key)) throw row_error("the argument " + quoted_for_error(key) + " is given twice");
      made[key] = value(depth + 1);
    }
    return made;
  }

 private:
  static constexpr std::string_view kQuote = "<|\"|>";

  std::string_view quoted_key() {
    const std::string_view key = cursor_.take_until(kQuote, "a name that is not closed");
    cursor_.expect(":", "an argument without a value");
    return key;
  }

  OrderedJson value(int depth) {
    if (depth > 64) throw row_error("arguments nested too deep");
    if (cursor_.take(kQuote)) return std::string(cursor_.take_until(kQuote, "a text that is not closed"));
    if (cursor_.rest().starts_with('{')) return members(depth);
    if (cursor_.take("[")) {
      OrderedJson list = OrderedJson::array();
      while (!cursor_.take("]")) {
        if (!list.empty()) cursor_.expect(",", "expected another value or the end of the list");
        list.push_back(value(depth + 1));
      }
      return list;
    }
    const std::string word(cursor_.rest().substr(0, cursor_.rest().find_first_of(",]}")));
    cursor_.take(word);
    return parse_exact_json(word, "a value of an argument");
  }

  AnswerCursor& cursor_;
};

OrderedJson read_gemma_calls(AnswerCursor& cursor, const OrderedJson&) {
  OrderedJson calls = OrderedJson::array();
  for (; !cursor.at_end(); cursor.skip_space()) {
    cursor.expect("<|tool_call>call:", "text after the tool calls");
    const std::string_view rest = cursor.rest();
    const std::string name(rest.substr(0, rest.find_first_of("{\n<")));
    cursor.take(name);
    calls.push_back(tool_call(name, to_python_json(GemmaReader(cursor).members())));
    cursor.expect("<tool_call|>", "expected the end of the tool call");
  }
  return calls;
}

}  // namespace

OrderedJson parse_llama3(std::string_view answer, const AnswerFrame& given) {
  AnswerFrame frame = given;
  if (answer.ends_with("<|eom_id|>")) frame.end_of_turn = "<|eom_id|>";  // of a turn that waits for a tool
  const SplitAnswer split = split_answer(answer, frame, {});
  AnswerCursor cursor(split.rest);
  cursor.skip_space();
  const bool is_tagged = cursor.take("<|python_tag|>");
  if (!is_tagged && !begins_call(cursor)) return message_of(split, frame, split.rest, OrderedJson::array());
  cursor.skip_space();
  return message_of(split, frame, "",
                    cursor.rest().starts_with('{') ? read_parameter_calls(cursor) : read_built_in_call(cursor));
}

OrderedJson parse_llama4(std::string_view answer, const AnswerFrame& frame) {
  const SplitAnswer split = split_answer(answer, frame, {});
  AnswerCursor cursor(split.rest);
  if (cursor.take(kPythonBegin)) {
    const std::string_view inside = cursor.take_until(kPythonEnd, "<|python_start|> without <|python_end|>");
    cursor.skip_space();
    if (cursor.at_end()) throw row_error("nothing after <|python_end|>: a call in Python is not read");
    return message_of(split, frame, inside, read_parameter_calls(cursor));
  }
  if (begins_call(cursor)) return message_of(split, frame, "", read_parameter_calls(cursor));
  return message_of(split, frame, split.rest, OrderedJson::array());
}

OrderedJson parse_mistral(std::string_view answer, const AnswerFrame& frame) {
  return parse_marked(answer, frame, {"[THINK]", "[/THINK]"}, "[TOOL_CALLS]", "[ARGS]", read_mistral_calls);
}

OrderedJson parse_deepseek_v3(std::string_view answer, const AnswerFrame& frame) {
  return parse_marked(answer, frame, {}, kCallsBegin, kCallsEnd, read_deepseek_calls<true>);
}

OrderedJson parse_deepseek_v3_1(std::string_view answer, const AnswerFrame& frame) {
  return parse_marked(answer, frame, {}, kCallsBegin, kCallsEnd, read_deepseek_calls<false>);
}

// A turn that waits for a tool ends with the mark of its result.
OrderedJson parse_gemma4(std::string_view answer, const AnswerFrame& frame) {
  constexpr std::string_view kWaits = "<|tool_response>";
  if (answer.ends_with(kWaits)) answer.remove_suffix(kWaits.size());
  return parse_marked(answer, frame, {"<|channel>thought", "<channel|>"}, "<|tool_call>", "<tool_call|>",
                      read_gemma_calls);
}

OrderedJson parse_command(std::string_view answer, const AnswerFrame& frame) {
  const SplitAnswer split = split_answer(answer, frame, {"<|START_THINKING|>", "<|END_THINKING|>"});
  AnswerCursor cursor(split.rest);
  cursor.skip_space();
  std::string_view content;
  OrderedJson calls = OrderedJson::array();
  if (cursor.take("<|START_ACTION|>")) {
    cursor.skip_space();
    const OrderedJson list = parse_exact_json(cursor.take_list("expected a list of calls"), "tool calls");
    refuse_no_calls(list);
    for (const OrderedJson& call : list) calls.push_back(tool_call_of(call, "parameters", "tool_name", "tool_call_id"));
    cursor.skip_space();
    cursor.expect("<|END_ACTION|>", "expected the end of the tool calls");
  } else if (cursor.take("<|START_RESPONSE|>")) {
    content = cursor.take_until("<|END_RESPONSE|>", "a response that does not end");
  } else if (cursor.take("<|START_TEXT|>")) {
    content = cursor.take_until("<|END_TEXT|>", "a response that does not end");
  } else {
    cursor.refuse("expected <|START_RESPONSE|> or <|START_ACTION|>");
  }
  cursor.skip_space();
  if (!cursor.at_end()) cursor.refuse("text after the response");
  return message_of(split, frame, content, std::move(calls));
}

}  // namespace moraine
