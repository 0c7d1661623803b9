#include "text/chat/answer_reader.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/text.h"
#include "text/chat/tojson.h"

namespace moraine {
namespace {

// A conversation whose answer is a call, and that call.
struct Probe {
  OrderedJson messages, tools, call;
};

// What templates differ in: whether they know lists and objects as arguments, which ids of calls they take, whether a
// call's message may have a content, and whether it has thinking.
Probe make_probe(bool is_plain, const char* id, bool has_content, bool has_thinking) {
  OrderedJson arguments{{"count", 7}};  // in order: Gemma sorts them
  if (!is_plain) arguments.update({{"deep", {{"key", "c"}}}, {"list", {"a", "b"}}});
  arguments["text"] = "Tt 1";
  Probe probe;
  probe.call = {{"name", "probe_call"}, {"arguments", arguments}};
  OrderedJson answer{{"role", "assistant"}, {"content", has_content ? OrderedJson("") : OrderedJson()}};
  if (has_thinking) answer["reasoning_content"] = "Rr 1";
  const OrderedJson function{{"name", "probe_call"}, {"arguments", to_python_json(arguments)}};
  answer["tool_calls"] = OrderedJson::array({OrderedJson{{"id", id}, {"type", "function"}, {"function", function}}});
  probe.messages = OrderedJson::array({OrderedJson{{"role", "user"}, {"content", "Qq 1"}}, answer});
  OrderedJson properties;
  for (const auto& [name, type] :
       {std::pair{"count", "integer"}, {"deep", "object"}, {"list", "array"}, {"text", "string"}}) {
    if (arguments.contains(name)) properties[name] = {{"type", type}, {"description", "Dd 1"}};
  }
  if (!is_plain) properties["list"]["items"] = {{"type", "string"}};
  probe.tools = OrderedJson::array(
      {OrderedJson{{"type", "function"},
                   {"function",
                    {{"name", "probe_call"},
                     {"description", "Dd 2"},
                     {"parameters", {{"type", "object"}, {"properties", properties}, {"required", {"text"}}}}}}}});
  return probe;
}

bool reads_back(const AnswerSyntax& syntax, std::string_view answer, const AnswerFrame& frame, const Probe& probe) {
  try {
    const OrderedJson message = syntax.parse(answer, frame);
    const OrderedJson& calls = message["tool_calls"];
    if (message["content"] != "" || calls.size() != 1) return false;
    const OrderedJson& function = calls[0]["function"];
    return function["name"] == probe.call["name"] &&
           parse_exact_json(function["arguments"].get_ref<const std::string&>(), "") == probe.call["arguments"];
  } catch (const Error&) {
    return false;
  }
}

// nullptr when none reads what the encoder renders of a probe.
const AnswerSyntax* syntax_by_probe(const ChatEncoder& encoder, const std::string& end_of_turn, const Probe& probe) {
  try {
    const ChatText text = encoder.training_text(probe.messages, probe.tools);
    if (text.trained.empty()) return nullptr;
    const auto [begin, end] = text.trained.back();
    const AnswerFrame frame{std::string_view(text.text).substr(0, begin), end_of_turn, false, probe.tools};
    for (const AnswerSyntax& syntax : answer_syntaxes()) {
      if (reads_back(syntax, std::string_view(text.text).substr(begin, end - begin), frame, probe)) return &syntax;
    }
  } catch (const Error&) {  // such a conversation is none of this template's
  }
  return nullptr;
}

const AnswerSyntax* syntax_by_probes(const ChatEncoder& encoder, const std::string& end_of_turn) {
  for (const bool is_plain : {false, true}) {
    for (const char* id : {"functions.probe_call:0", "probe1234"}) {
      for (const bool has_content : {true, false}) {
        for (const bool has_thinking : {true, false}) {
          const Probe probe = make_probe(is_plain, id, has_content, has_thinking);
          if (const AnswerSyntax* found = syntax_by_probe(encoder, end_of_turn, probe)) return found;
        }
      }
    }
  }
  return nullptr;
}

}  // namespace

AnswerReader::AnswerReader(const ChatTemplate& chat, const std::string& syntax, const std::string& where)
    : end_of_turn_(chat.turns.end_of_turn) {
  if (syntax != "auto") {
    syntax_ = find_answer_syntax(syntax);
    if (syntax_ == nullptr) {
      throw input_error(where, fmt::format("unknown syntax '{}'", syntax),
                        "available: auto, " + join_words(answer_syntax_names()));
    }
    return;
  }
  const bool is_template = chat.own != nullptr && chat.format.wrap == nullptr;
  syntax_ = is_template ? syntax_by_probes(*chat.encoder, end_of_turn_) : find_answer_syntax(chat.format.answers);
  if (syntax_ == nullptr) {
    throw input_error(where, fmt::format("answers in {} are in no syntax that can be read", chat.format.name),
                      "--syntax " + join_choices(answer_syntax_names()));
  }
}

OrderedJson AnswerReader::read(std::string_view answer, std::string_view prompt, const OrderedJson& tools,
                               bool may_lack_end) const {
  return syntax_->parse(answer, {prompt, end_of_turn_, may_lack_end, tools});
}

}  // namespace moraine
