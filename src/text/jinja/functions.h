// What templates call: filters, tests, and methods of Python's strings, lists and dicts.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace moraine::jinja {

// What a call gives a function.
struct Arguments {
  std::vector<Value> values;
  std::vector<std::pair<std::string, Value>> named;

  // Argument `index`, or the one of this name; nullptr when it is not given.
  const Value* find(size_t index, std::string_view name) const;
  // The same, or `otherwise`.
  Value get(size_t index, std::string_view name, Value otherwise) const;
  // Throws Failure unless at most `most` are given and each named one is of `names`.
  void check(std::string_view function, size_t most, std::initializer_list<std::string_view> names) const;
};

// What functions need of the evaluator.
class Caller {
 public:
  virtual ~Caller() = default;
  virtual Origin template_origin() const = 0;  // of text that the template itself writes now
};

// The number of a filter or test; -1 when there is none of this name.
int find_filter(std::string_view name);
int find_test(std::string_view name);
// The number of a function that templates know without defining it; -1 when there is none of this name.
int find_global(std::string_view name);
// All throw Failure, without its place, on what Python would raise on.
Value apply_filter(int filter, const Value& value, const Arguments& arguments, const Caller& caller);
bool apply_test(int test, const Value& value, const Arguments& arguments);

// A method that is not called yet.
struct Method : Object {
  Value self;
  std::string name;
  bool is_forbidden = false;  // it would change the value, which the sandbox refuses
};

// What joiner() and cycler() give: they remember how often they were called.
struct Helper : Object {
  bool is_joiner = false;
  Value separator;           // of a joiner
  std::vector<Value> items;  // of a cycler
  size_t calls = 0;          // of a joiner; of a cycler the place of its current item
};
Value helper_attribute(const Value& helper, std::string_view name);

// Whether values of this kind have a method of this name.
bool has_method(const Value& value, std::string_view name);
Value bound_method(const Value& value, std::string_view name);
Value call_method(const Method& method, const Arguments& arguments, const Caller& caller);

// value.name and value[key] as Jinja looks them up; undefined when there is none.
Value get_attribute(const Value& value, std::string_view name);
Value get_item(const Value& value, const Value& key);
Value get_slice(const Value& value, const Value& start, const Value& stop, const Value& step);

// "format % values" and "format".format(arguments).
Value format_percent(const Value& format, const Value& values);
Value format_braces(const Value& format, const Arguments& arguments);
// a + b; characters of strings without origin gain `fallback`.
Value add(const Value& a, const Value& b, Origin fallback = kNoOrigin);
Value escape_html(const Value& text);
// A string or sequence, `times` times after itself.
Value repeated(const Value& what, int64_t times);

}  // namespace moraine::jinja
