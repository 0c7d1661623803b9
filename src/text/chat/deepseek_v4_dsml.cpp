#include "text/chat/deepseek_v4_dsml.h"

#include <fmt/format.h>

#include <set>

#include "base/error.h"
#include "base/text.h"
#include "text/chat/deepseek_v4_tokens.h"
#include "text/chat/tojson.h"
#include "text/tokenizer/at_place.h"

namespace moraine::deepseek_v4 {
namespace {

constexpr std::string_view kInvokeBegin = "<｜DSML｜invoke name=\"", kInvokeEnd = "</｜DSML｜invoke>\n";
constexpr std::string_view kParameterBegin = "<｜DSML｜parameter name=\"", kParameterEnd = "</｜DSML｜parameter>\n";
constexpr std::string_view kCallNameEnd = "\">\n";
constexpr std::string_view kTextFollows = "\" string=\"true\">", kJsonFollows = "\" string=\"false\">";

constexpr std::string_view kToolsBegin =
    "## Tools\n\nYou have access to a set of tools to help answer the user's question. You can invoke tools by "
    "writing a \"<｜DSML｜tool_calls>\" block like the following:\n\n"
    "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"$TOOL_NAME\">\n"
    "<｜DSML｜parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</｜DSML｜parameter>\n...\n"
    "</｜DSML｜invoke>\n<｜DSML｜invoke name=\"$TOOL_NAME2\">\n...\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>\n\n"
    "String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, booleans, "
    "arrays, objects), pass the value in JSON format and set `string=\"false\"`.\n\n"
    "If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside "
    "<think>...</think> BEFORE any tool calls or final response.\n\n"
    "Otherwise, output directly after </think> with tool calls or final response.\n\n"
    "### Available Tool Schemas\n\n";
constexpr std::string_view kToolsEnd =
    "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n";

// Walks over a block of calls.
class Reader {
 public:
  explicit Reader(std::string_view text) : rest_(text) {}

  bool at_end() const { return rest_.empty(); }

  // Takes `expected` when it comes next.
  bool take(std::string_view expected) {
    if (!rest_.starts_with(expected)) return false;
    rest_.remove_prefix(expected.size());
    return true;
  }

  // Takes all before `stop` and `stop` itself; no DSML may come before it.
  std::string_view take_until(std::string_view stop, const char* what) {
    const size_t end = rest_.find(stop);
    if (end == rest_.npos || rest_.substr(0, end).find(kDsml) != rest_.npos) refuse(what);
    const std::string_view taken = rest_.substr(0, end);
    rest_.remove_prefix(end + stop.size());
    return taken;
  }

  [[noreturn]] void refuse(const char* what) const {
    throw row_error(fmt::format("{}, at {}", what, rest_.empty() ? "the end" : quoted_for_error(std::string(rest_))));
  }

 private:
  std::string_view rest_;
};

// `"name": value` as JSON text. JSON that the model wrote stays as it is.
std::string read_argument(Reader& reader, std::set<std::string, std::less<>>& names) {
  const std::string_view parameter = reader.take_until(kParameterEnd, "a parameter that is not closed");
  const size_t text_at = parameter.find(kTextFollows), json_at = parameter.find(kJsonFollows);
  const bool is_text = text_at < json_at;
  const size_t name_end = is_text ? text_at : json_at;
  const std::string name(parameter.substr(0, name_end));
  const std::string shown = quoted_for_error(name);
  if (name_end == parameter.npos) throw row_error("a parameter without string=\"true\" or string=\"false\": " + shown);
  if (!names.insert(name).second) throw row_error(fmt::format("the parameter {} is given twice", shown));
  const std::string value(parameter.substr(name_end + (is_text ? kTextFollows : kJsonFollows).size()));
  if (!is_text) parse_ordered_json(value, "parameter " + shown);
  return to_python_json(name) + ": " + (is_text ? to_python_json(value) : value);
}

OrderedJson read_call(Reader& reader) {
  const std::string name(reader.take_until(kCallNameEnd, "a malformed invoke"));
  if (name.empty()) throw row_error("a call without a name");
  std::string arguments = "{";
  std::set<std::string, std::less<>> names;
  while (reader.take(kParameterBegin)) {
    if (!names.empty()) arguments += ", ";
    arguments += read_argument(reader, names);
  }
  if (names.empty()) reader.take("\n");
  if (!reader.take(kInvokeEnd)) reader.refuse("expected a parameter or the end of the invoke");
  return {{"type", "function"}, {"function", {{"name", name}, {"arguments", arguments + "}"}}}};
}

}  // namespace

void refuse_control_tokens(std::string_view text, const char* what) {
  for (std::string_view token : {kBeginOfSentence, kEndOfSentence, kDsml}) {
    if (text.find(token) == text.npos) continue;
    throw row_error(fmt::format("{} holds {}, which would be taken for the format's own", what, token));
  }
}

std::string write_calls(const std::vector<Call>& calls) {
  std::string text(kCallsBegin);
  for (const Call& call : calls) {
    refuse_control_tokens(call.name, "the name of a call");
    if (call.name.find(kCallNameEnd) != call.name.npos) throw row_error("the name of a call ends its own tag");
    text.append(kInvokeBegin).append(call.name).append(kCallNameEnd);
    for (const auto& [name, value] : call.arguments.items()) {
      const std::string shown = value.is_string() ? value.get<std::string>() : to_python_json(value);
      refuse_control_tokens(name, "the name of an argument");
      refuse_control_tokens(shown, "an argument");
      for (std::string_view end : {kTextFollows, kJsonFollows}) {
        if (name.find(end) != name.npos) throw row_error("the name of an argument ends its own tag");
      }
      text.append(kParameterBegin).append(name).append(value.is_string() ? kTextFollows : kJsonFollows);
      text.append(shown).append(kParameterEnd);
    }
    if (call.arguments.empty()) text += '\n';
    text.append(kInvokeEnd);
  }
  return text.append(kCallsEnd);
}

OrderedJson read_calls(std::string_view text) {
  Reader reader(text);
  OrderedJson calls = OrderedJson::array();
  while (reader.take(kInvokeBegin)) calls.push_back(read_call(reader));
  if (!reader.take(kCallsEnd)) reader.refuse("expected an invoke or the end of the tool calls");
  if (!reader.at_end()) reader.refuse("text after the tool calls");
  if (calls.empty()) throw row_error("a block of tool calls without a call");
  return calls;
}

std::string describe_tools(const std::vector<OrderedJson>& functions) {
  std::string text(kToolsBegin);
  for (const OrderedJson& function : functions) {
    if (&function != &functions.front()) text += '\n';
    text += to_python_json(function);
  }
  return text.append(kToolsEnd);
}

}  // namespace moraine::deepseek_v4
