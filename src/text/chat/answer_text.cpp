#include "text/chat/answer_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "base/error.h"
#include "text/chat/python_literal.h"
#include "text/chat/tojson.h"
#include "text/tokenizer/at_place.h"

namespace moraine {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

std::string_view strip_left_newlines(std::string_view text) {
  while (text.starts_with('\n')) text.remove_prefix(1);
  return text;
}

void refuse_tag(std::string_view text, std::string_view tag, const char* what) {
  if (text.find(tag) != text.npos) throw row_error(fmt::format("{} in the {}", tag, what));
}

// The types that a schema allows; nullopt where it does not say all of them.
std::optional<std::set<std::string>> types_of(const OrderedJson& schema, int depth = 0) {
  if (!schema.is_object() || depth > 8) return std::nullopt;
  std::set<std::string> types;
  if (const auto type = schema.find("type"); type != schema.end()) {
    if (type->is_string()) return std::set<std::string>{type->get<std::string>()};
    if (!type->is_array()) return std::nullopt;
    for (const OrderedJson& one : *type) {
      if (!one.is_string()) return std::nullopt;
      types.insert(one.get<std::string>());
    }
    return types;
  }
  for (const char* key : {"anyOf", "oneOf"}) {
    const auto choices = schema.find(key);
    if (choices == schema.end() || !choices->is_array()) continue;
    for (const OrderedJson& choice : *choices) {
      const auto more = types_of(choice, depth + 1);
      if (!more) return std::nullopt;
      types.insert(more->begin(), more->end());
    }
    return types;
  }
  return std::nullopt;
}

std::optional<std::set<std::string>> types_of_argument(const OrderedJson& tools, std::string_view function,
                                                       const std::string& argument) {
  if (!tools.is_array()) return std::nullopt;
  for (const OrderedJson& tool : tools) {
    if (!tool.is_object()) continue;
    const auto inner = tool.find("function");
    const OrderedJson& schema = inner != tool.end() && inner->is_object() ? *inner : tool;
    if (schema.value("name", OrderedJson()) != function) continue;
    const OrderedJson parameters = schema.value("parameters", OrderedJson());
    if (!parameters.is_object()) return std::nullopt;
    const OrderedJson properties = parameters.value("properties", OrderedJson());
    if (!properties.is_object()) return std::nullopt;
    const auto property = properties.find(argument);
    return property == properties.end() ? std::nullopt : types_of(*property);
  }
  return std::nullopt;
}

bool has_type(const OrderedJson& value, const std::set<std::string>& types) {
  const auto any = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* name) { return types.count(name) > 0; });
  };
  if (value.is_null()) return any({"null"});
  if (value.is_boolean()) return any({"boolean"});
  if (value.is_array()) return any({"array"});
  if (value.is_object()) return any({"object"});
  return (value.is_number() || value.is_binary()) && any({"integer", "number"});
}

}  // namespace

void AnswerCursor::skip_space() { rest_.remove_prefix(std::min(rest_.find_first_not_of(kSpace), rest_.size())); }

bool AnswerCursor::take(std::string_view expected) {
  if (!rest_.starts_with(expected)) return false;
  rest_.remove_prefix(expected.size());
  return true;
}

void AnswerCursor::expect(std::string_view expected, const char* what) {
  if (!take(expected)) refuse(what);
}

std::string_view AnswerCursor::take_until(std::string_view stop, const char* what) {
  const size_t end = rest_.find(stop);
  if (end == rest_.npos) refuse(what);
  const std::string_view taken = rest_.substr(0, end);
  rest_.remove_prefix(end + stop.size());
  return taken;
}

std::string_view AnswerCursor::take_until(std::string_view stop, std::initializer_list<std::string_view> behind,
                                          const char* what) {
  for (size_t end = rest_.find(stop); end != rest_.npos; end = rest_.find(stop, end + 1)) {
    AnswerCursor next(rest_.substr(end + stop.size()));
    next.skip_space();
    const auto follows = [&](std::string_view text) { return next.rest().starts_with(text); };
    if (std::none_of(behind.begin(), behind.end(), follows)) continue;
    const std::string_view taken = rest_.substr(0, end);
    rest_.remove_prefix(end + stop.size());
    return taken;
  }
  refuse(what);
}

std::string_view AnswerCursor::take_object(const char* what) {
  if (!rest_.starts_with('{')) refuse(what);
  return take_brackets(what);
}

std::string_view AnswerCursor::take_list(const char* what) {
  if (!rest_.starts_with('[')) refuse(what);
  return take_brackets(what);
}

std::string_view AnswerCursor::take_brackets(const char* what) {
  size_t depth = 0;
  bool in_text = false;
  for (size_t i = 0; i < rest_.size(); ++i) {
    const char c = rest_[i];
    if (in_text) {
      if (c == '\\') ++i;
      in_text = c != '"';
      continue;
    }
    in_text = c == '"';
    if (c == '{' || c == '[') ++depth;
    if ((c == '}' || c == ']') && --depth == 0) {
      const std::string_view taken = rest_.substr(0, i + 1);
      rest_.remove_prefix(i + 1);
      return taken;
    }
  }
  refuse(what);
}

void AnswerCursor::refuse(const char* what) const {
  throw row_error(fmt::format("{}, at {}", what, rest_.empty() ? "the end" : quoted_for_error(std::string(rest_))));
}

std::string_view strip_newlines(std::string_view text) {
  text = strip_left_newlines(text);
  while (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

SplitAnswer split_answer(std::string_view answer, const AnswerFrame& frame, const ThinkingTags& tags) {
  SplitAnswer split;
  const std::string& end = frame.end_of_turn;
  const size_t end_at = end.empty() ? answer.npos : answer.find(end);
  split.is_ended = end.empty() || end_at != answer.npos;
  if (end_at != answer.npos) {
    if (answer.find_first_not_of(kSpace, end_at + end.size()) != answer.npos)
      throw row_error(fmt::format("text after {}", end));
    answer = answer.substr(0, end_at);
  }
  const std::string_view prompt = frame.prompt.substr(0, frame.prompt.find_last_not_of(kSpace) + 1);
  const std::string_view begin = strip_left_newlines(answer);
  split.rest = answer;
  const bool opens = begin.starts_with(tags.begin);
  if (prompt.ends_with(tags.end)) {
    if (opens) throw row_error(fmt::format("{} after a prompt that ends thinking", tags.begin));
    split.rest = begin;
  } else if (opens || prompt.ends_with(tags.begin)) {
    const std::string_view thought = opens ? begin.substr(tags.begin.size()) : answer;
    const size_t close = thought.find(tags.end);
    if (close == thought.npos) throw row_error(fmt::format("no {} after the thinking", tags.end));
    split.reasoning = strip_newlines(thought.substr(0, close));
    refuse_tag(split.reasoning, tags.begin, "thinking");
    split.rest = strip_left_newlines(thought.substr(close + tags.end.size()));
  }
  refuse_tag(split.rest, tags.end, "content");
  return split;
}

void check_end(bool is_ended, const AnswerFrame& frame, const OrderedJson& calls) {
  if (is_ended || frame.may_lack_end || !calls.empty()) return;
  throw row_error(fmt::format("no {} at the end", frame.end_of_turn),
                  "only whole tool calls may do without it; --parse-without-eos takes answers that lack it");
}

OrderedJson parse_marked(std::string_view answer, const AnswerFrame& frame, const ThinkingTags& tags,
                         std::string_view mark, std::string_view end, ReadCalls read_calls) {
  const SplitAnswer split = split_answer(answer, frame, tags);
  const size_t calls_at = split.rest.find(mark);
  std::string_view content = split.rest.substr(0, calls_at);
  if (content.find(end) != content.npos) throw row_error(fmt::format("{} without {}", end, mark));
  OrderedJson calls = OrderedJson::array();
  if (calls_at != split.rest.npos) {
    content = strip_newlines(content);
    AnswerCursor cursor(split.rest.substr(calls_at));
    calls = read_calls(cursor, frame.tools);
  }
  check_end(split.is_ended, frame, calls);
  return answer_message(content, split.reasoning, std::move(calls));
}

OrderedJson answer_message(std::string_view content, std::string_view reasoning, OrderedJson calls) {
  return {
      {"role", "assistant"}, {"content", content}, {"reasoning_content", reasoning}, {"tool_calls", std::move(calls)}};
}

OrderedJson tool_call(std::string_view name, std::string_view arguments) {
  if (name.empty()) throw row_error("a call without a name");
  const std::string shown = "arguments of " + quoted_for_error(std::string(name));
  if (!parse_exact_json(arguments, shown).is_object()) throw row_error(shown + " are no JSON object");
  return {{"type", "function"}, {"function", {{"name", name}, {"arguments", arguments}}}};
}

OrderedJson tool_call_of(const OrderedJson& call, const char* arguments, const char* name, const char* id) {
  const bool has_id = id != nullptr && call.contains(id) && call[id].is_string();
  if (!call.is_object() || call.size() != (has_id ? 3 : 2) || !call.contains(name) || !call[name].is_string() ||
      !call.contains(arguments))
    throw row_error(fmt::format("a tool call is not {{\"{}\", \"{}\"}}", name, arguments));
  OrderedJson made;
  if (has_id) made["id"] = call[id];
  made.update(tool_call(call[name].get_ref<const std::string&>(), to_python_json(call[arguments])));
  return made;
}

std::string argument_as_json(const OrderedJson& tools, std::string_view function, const std::string& argument,
                             std::string_view text) {
  const auto types = types_of_argument(tools, function, argument);
  if (!types || types->empty() || types->count("string") > 0) return to_python_json(std::string(text));
  OrderedJson value;
  try {
    value = parse_exact_json(text, "");
  } catch (const Error&) {
    const auto python = python_literal(text);
    if (!python) {
      throw row_error(fmt::format("argument {} is {}, which its schema does not allow", quoted_for_error(argument),
                                  quoted_for_error(std::string(text))));
    }
    value = *python;
  }
  if (!has_type(value, *types)) {
    throw row_error(fmt::format("argument {} is {}, which its schema does not allow", quoted_for_error(argument),
                                quoted_for_error(std::string(text))));
  }
  return to_python_json(value);
}

}  // namespace moraine
