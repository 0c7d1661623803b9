// What the syntaxes of answers share.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "base/json.h"
#include "text/chat/answer_syntax.h"

namespace moraine {

// Walks over an answer. Everything takes time in proportion to what it takes.
class AnswerCursor {
 public:
  explicit AnswerCursor(std::string_view text) : rest_(text) {}

  std::string_view rest() const { return rest_; }
  bool at_end() const { return rest_.empty(); }
  void skip_space();
  // Takes `expected` when it comes next.
  bool take(std::string_view expected);
  // Takes it, or refuses `what`.
  void expect(std::string_view expected, const char* what);
  // Takes all before `stop` and `stop` itself.
  std::string_view take_until(std::string_view stop, const char* what);
  // The same for the first `stop` that one of `behind` follows, after white space which stays.
  std::string_view take_until(std::string_view stop, std::initializer_list<std::string_view> behind, const char* what);
  // Take a JSON object or list, as far as its brackets go.
  std::string_view take_object(const char* what);
  std::string_view take_list(const char* what);
  [[noreturn]] void refuse(const char* what) const;

 private:
  std::string_view take_brackets(const char* what);

  std::string_view rest_;
};

// The marks around a model's thinking.
struct ThinkingTags {
  std::string_view begin = "<think>", end = "</think>";
};

// An answer without its end of turn, and its thinking taken off the front.
struct SplitAnswer {
  std::string_view reasoning, rest;  // without the newlines around them
  bool is_ended = false;             // its end of turn was there
};
SplitAnswer split_answer(std::string_view answer, const AnswerFrame& frame, const ThinkingTags& tags);

// Throws unless the answer is ended, may lack its end, or ends with a call.
void check_end(bool is_ended, const AnswerFrame& frame, const OrderedJson& calls);

// Reads the calls of an answer, at whose first mark the cursor stands, to its end.
using ReadCalls = OrderedJson (*)(AnswerCursor& cursor, const OrderedJson& tools);

// An answer that is thinking, content, then calls from `mark` on. `end`: what closes calls, for an error.
OrderedJson parse_marked(std::string_view answer, const AnswerFrame& frame, const ThinkingTags& tags,
                         std::string_view mark, std::string_view end, ReadCalls read_calls);

OrderedJson answer_message(std::string_view content, std::string_view reasoning, OrderedJson calls);

// `arguments`: JSON text of an object, which is checked and stays as it is.
OrderedJson tool_call(std::string_view name, std::string_view arguments);
// The call in a JSON object of nothing but these members; it may have one more, the text `id`, where that is not null.
OrderedJson tool_call_of(const OrderedJson& call, const char* arguments = "arguments", const char* name = "name",
                         const char* id = nullptr);

// The bare text of an argument as JSON text, by its type in the schema of `function` in `tools`.
std::string argument_as_json(const OrderedJson& tools, std::string_view function, const std::string& argument,
                             std::string_view text);

std::string_view strip_newlines(std::string_view text);

}  // namespace moraine
