#include "text/chat/answer_syntax.h"

#include <fmt/format.h>

#include <set>

#include "base/error.h"
#include "text/chat/answer_families.h"
#include "text/chat/answer_text.h"
#include "text/chat/deepseek_v4_parse.h"
#include "text/chat/deepseek_v4_tokens.h"
#include "text/chat/harmony_parse.h"
#include "text/chat/tojson.h"
#include "text/tokenizer/at_place.h"

namespace moraine {
namespace {

OrderedJson read_hermes_calls(AnswerCursor& cursor, const OrderedJson&) {
  OrderedJson calls = OrderedJson::array();
  for (; !cursor.at_end(); cursor.skip_space()) {
    cursor.expect("<tool_call>", "expected <tool_call> or the end of the answer");
    cursor.skip_space();
    const OrderedJson call = parse_exact_json(cursor.take_object("expected a JSON object in <tool_call>"), "tool call");
    cursor.skip_space();
    cursor.expect("</tool_call>", "expected </tool_call>");
    calls.push_back(tool_call_of(call));
  }
  return calls;
}

OrderedJson parse_hermes(std::string_view answer, const AnswerFrame& frame) {
  return parse_marked(answer, frame, {}, "<tool_call>", "</tool_call>", read_hermes_calls);
}

// Calls whose arguments are bare text between tags.
struct TaggedCalls {
  std::string_view begin = "", end = "";  // around each call, or around all of them
  bool around_all = false;
  std::string_view name_begin = "", name_end = "", call_end = "";  // name_end "": a newline or the next tag
  std::string_view key_begin = "", key_end = "", value_begin = "", value_end = "";
  bool has_newlines = false;  // one at the begin and one at the end of a value are the syntax's
};

constexpr TaggedCalls kQwen3Coder{.begin = "<tool_call>",
                                  .end = "</tool_call>",
                                  .name_begin = "<function=",
                                  .name_end = ">",
                                  .call_end = "</function>",
                                  .key_begin = "<parameter=",
                                  .key_end = ">",
                                  .value_end = "</parameter>",
                                  .has_newlines = true};
constexpr TaggedCalls kSeedOss{.begin = "<seed:tool_call>",
                               .end = "</seed:tool_call>",
                               .name_begin = "<function=",
                               .name_end = ">",
                               .call_end = "</function>",
                               .key_begin = "<parameter=",
                               .key_end = ">",
                               .value_end = "</parameter>"};
constexpr TaggedCalls kGlm{.begin = "<tool_call>",
                           .end = "</tool_call>",
                           .call_end = "",
                           .key_begin = "<arg_key>",
                           .key_end = "</arg_key>",
                           .value_begin = "<arg_value>",
                           .value_end = "</arg_value>"};
constexpr TaggedCalls kMinimaxM2{.begin = "<minimax:tool_call>",
                                 .end = "</minimax:tool_call>",
                                 .around_all = true,
                                 .name_begin = "<invoke name=\"",
                                 .name_end = "\">",
                                 .call_end = "</invoke>",
                                 .key_begin = "<parameter name=\"",
                                 .key_end = "\">",
                                 .value_end = "</parameter>"};

std::string_view strip_one_newline(std::string_view text) {
  if (text.starts_with('\n')) text.remove_prefix(1);
  if (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

std::string_view take_name(AnswerCursor& cursor, const TaggedCalls& tags) {
  if (!tags.name_end.empty()) {
    cursor.expect(tags.name_begin, "expected the name of a function");
    const std::string_view name = cursor.take_until(tags.name_end, "a function's name that does not end");
    if (name.find_first_of("<\n") != name.npos) throw row_error("a function's name that does not end");
    return name;
  }
  const std::string_view rest = cursor.rest();
  const std::string_view name = rest.substr(0, rest.find_first_of("<\n"));
  cursor.take(name);
  return name;
}

OrderedJson read_tagged_call(AnswerCursor& cursor, const TaggedCalls& tags, const OrderedJson& tools) {
  const std::string_view name = take_name(cursor, tags);
  const std::string_view call_end = tags.call_end.empty() ? tags.end : tags.call_end;
  std::set<std::string> names;
  std::string arguments = "{";
  for (cursor.skip_space(); !cursor.rest().starts_with(call_end); cursor.skip_space()) {
    cursor.expect(tags.key_begin, "expected an argument or the end of the call");
    const std::string key(cursor.take_until(tags.key_end, "an argument's name that does not end"));
    if (key.empty() || key.find_first_of("<\n") != key.npos) throw row_error("an argument's name that does not end");
    if (!tags.value_begin.empty()) {
      cursor.skip_space();
      cursor.expect(tags.value_begin, "expected the value of an argument");
    }
    std::string_view value =
        cursor.take_until(tags.value_end, {tags.key_begin, call_end}, "an argument that is not closed");
    if (tags.has_newlines) value = strip_one_newline(value);
    if (!names.insert(key).second) throw row_error("the argument " + quoted_for_error(key) + " is given twice");
    if (names.size() > 1) arguments += ", ";
    arguments += to_python_json(key) + ": " + argument_as_json(tools, name, key, value);
  }
  cursor.take(tags.call_end);
  return tool_call(name, arguments + "}");
}

template <const TaggedCalls& kTags>
OrderedJson read_tagged_calls(AnswerCursor& cursor, const OrderedJson& tools) {
  OrderedJson calls = OrderedJson::array();
  for (; !cursor.at_end(); cursor.skip_space()) {
    cursor.expect(kTags.begin, "text after the tool calls");
    cursor.skip_space();
    do {
      calls.push_back(read_tagged_call(cursor, kTags, tools));
      cursor.skip_space();
    } while (kTags.around_all && !cursor.rest().starts_with(kTags.end));
    cursor.expect(kTags.end, "expected the end of the tool call");
  }
  return calls;
}

template <const TaggedCalls& kTags>
OrderedJson parse_tagged(std::string_view answer, const AnswerFrame& frame) {
  const ThinkingTags thinking =
      &kTags == &kSeedOss ? ThinkingTags{"<seed:think>", "</seed:think>"} : ThinkingTags{"<think>", "</think>"};
  return parse_marked(answer, frame, thinking, kTags.begin, kTags.end, read_tagged_calls<kTags>);
}

// GLM's turns have no end: a model stops with the mark of whoever speaks next.
OrderedJson parse_glm(std::string_view answer, const AnswerFrame& frame) {
  for (std::string_view mark : {"<|user|>", "<|observation|>", "<|endoftext|>"}) {
    if (answer.ends_with(mark)) answer.remove_suffix(mark.size());
  }
  return parse_tagged<kGlm>(answer, frame);
}

constexpr std::string_view kKimiBegin = "<|tool_calls_section_begin|>", kKimiEnd = "<|tool_calls_section_end|>";

OrderedJson read_kimi_calls(AnswerCursor& cursor, const OrderedJson&) {
  OrderedJson calls = OrderedJson::array();
  cursor.take(kKimiBegin);
  for (cursor.skip_space(); !cursor.take(kKimiEnd); cursor.skip_space()) {
    cursor.expect("<|tool_call_begin|>", "expected a tool call or the end of them");
    const std::string id(cursor.take_until("<|tool_call_argument_begin|>", "a tool call without arguments"));
    constexpr std::string_view kPrefix = "functions.";
    const size_t colon = id.rfind(':');
    const bool is_index =
        colon != id.npos && colon + 1 < id.size() && id.find_first_not_of("0123456789", colon + 1) == id.npos;
    if (!id.starts_with(kPrefix) || !is_index || colon < kPrefix.size())
      throw row_error("the tool call " + quoted_for_error(id) + " is not functions.NAME:NUMBER");
    cursor.skip_space();
    const std::string_view arguments = cursor.take_object("expected a JSON object of arguments");
    cursor.skip_space();
    cursor.expect("<|tool_call_end|>", "expected the end of the tool call");
    OrderedJson call{{"id", id}};
    call.update(tool_call(std::string_view(id).substr(kPrefix.size(), colon - kPrefix.size()), arguments));
    calls.push_back(std::move(call));
  }
  if (calls.empty()) throw row_error("a section of tool calls without a call");
  cursor.skip_space();
  if (!cursor.at_end()) cursor.refuse("text after the tool calls");
  return calls;
}

OrderedJson parse_kimi(std::string_view answer, const AnswerFrame& frame) {
  return parse_marked(answer, frame, {}, kKimiBegin, kKimiEnd, read_kimi_calls);
}

OrderedJson parse_deepseek_v4(std::string_view answer, const AnswerFrame& frame) {
  const bool thinks = frame.prompt.ends_with(deepseek_v4::kThinkBegin);
  return deepseek_v4::parse_completion(
      answer, thinks ? deepseek_v4::ThinkingMode::kThinking : deepseek_v4::ThinkingMode::kChat, frame.may_lack_end);
}

}  // namespace

const std::vector<AnswerSyntax>& answer_syntaxes() {
  static const std::vector<AnswerSyntax> table{{"hermes", parse_hermes},
                                               {"qwen3_coder", parse_tagged<kQwen3Coder>},
                                               {"glm", parse_glm},
                                               {"minimax_m2", parse_tagged<kMinimaxM2>},
                                               {"seed_oss", parse_tagged<kSeedOss>},
                                               {"kimi_k2", parse_kimi},
                                               {"gpt_oss", parse_harmony},
                                               {"deepseek_v4", parse_deepseek_v4},
                                               {"deepseek_v3", parse_deepseek_v3},
                                               {"deepseek_v3_1", parse_deepseek_v3_1},
                                               {"mistral", parse_mistral},
                                               {"llama3", parse_llama3},
                                               {"llama4", parse_llama4},
                                               {"gemma4", parse_gemma4},
                                               {"command", parse_command}};
  return table;
}

const AnswerSyntax* find_answer_syntax(std::string_view name) {
  for (const AnswerSyntax& syntax : answer_syntaxes()) {
    if (syntax.name == name) return &syntax;
  }
  return nullptr;
}

std::vector<std::string> answer_syntax_names() {
  std::vector<std::string> names;
  for (const AnswerSyntax& syntax : answer_syntaxes()) names.push_back(syntax.name);
  return names;
}

}  // namespace moraine
