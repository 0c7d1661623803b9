// The values of templates: Python's, whose strings know which message each character came from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/jinja/budget.h"
#include "text/jinja/failure.h"

namespace moraine::jinja {

// Where a character came from: message and field as one number. kNoOrigin: from the template's own text, or from data
// outside of the messages.
using Origin = int32_t;
constexpr Origin kNoOrigin = 0;

// Of a message, which of its members a character came from.
enum class Field { kTemplate, kRole, kContent, kReasoning, kToolCalls, kOther };

constexpr Origin origin_of(int message, Field field) { return (message + 1) << 3 | static_cast<int>(field); }
constexpr int message_of(Origin origin) { return (origin >> 3) - 1; }  // -1: none
constexpr Field field_of(Origin origin) { return static_cast<Field>(origin & 7); }

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBoolean,
  kInteger,
  kBigInteger,  // beyond 64 bits: its digits (big_integer.h)
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kGenerator,  // what filters give one by one, once; or a view of a dict
  kNamespace,
  kMethod,  // of a value, not called yet
  kGlobal,  // a function that templates know without defining it
  kMacro,
  kLoop,
  kHelper,  // what joiner() and cycler() give
};

struct Object {
  virtual ~Object() = default;
};

class Value;

// A stretch of a string: up to the next one's begin.
struct Run {
  size_t begin;
  Origin origin;
};

struct Str : Object {
  std::string text;        // valid UTF-8
  std::vector<Run> runs;   // empty: the whole text has the value's origin
  bool is_markup = false;  // went through `safe`: plain text joined with it is escaped
};

struct List : Object {
  std::vector<Value> items;
  int depth = 1;
};

struct Dict : Object {
  std::vector<std::pair<Value, Value>> items;  // in order
  int depth = 1;

  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
};

// A pair that groupby gives: its items have names too.
struct Group : List {};

struct Generator : List {
  std::string view;  // "dict_items": iterates as often as wanted, and has a length; "": once
};

class Value {
 public:
  Kind kind = Kind::kUndefined;
  // Of a dict that is a message itself.
  bool is_message = false;
  // Of scalars, of strings without runs, and of what surrounds the items of a list or dict when it is printed.
  Origin origin = kNoOrigin;
  union {
    bool truth;
    int64_t integer_value = 0;
    double number_value;
  };
  std::shared_ptr<Object> object;

  static Value undefined(std::string_view name = "");
  static Value none();
  static Value boolean(bool value);
  static Value integer(int64_t value);
  static Value number(double value);
  static Value big_integer(std::string digits);
  static Value string(std::string text, Origin origin = kNoOrigin);
  static Value list(std::vector<Value> items, Kind kind = Kind::kList);
  static Value dict(std::vector<std::pair<Value, Value>> items);
  static Value generator(std::vector<Value> items, std::string view = "");
  static Value of(Kind kind, std::shared_ptr<Object> object);

  bool is(Kind which) const { return kind == which; }
  bool is_string() const { return kind == Kind::kString; }
  bool is_sequence() const { return kind == Kind::kList || kind == Kind::kTuple; }
  bool is_number() const { return kind == Kind::kInteger || kind == Kind::kFloat || kind == Kind::kBoolean; }
  bool is_integer() const { return kind == Kind::kInteger || kind == Kind::kBoolean; }
  bool is_undefined() const { return kind == Kind::kUndefined; }

  const Str& str() const { return static_cast<const Str&>(*object); }
  const std::string& text() const { return str().text; }
  const std::vector<Value>& items() const { return static_cast<const List&>(*object).items; }
  const std::string& view() const { return static_cast<const Generator&>(*object).view; }
  Dict& dict() const { return static_cast<Dict&>(*object); }
  int64_t integer() const { return kind == Kind::kBoolean ? truth : integer_value; }
  double number() const { return kind == Kind::kFloat ? number_value : static_cast<double>(integer()); }
};

constexpr size_t kMaxString = 64u << 20;

// Builds a string piece by piece, keeping where each came from. Throws Failure beyond kMaxString.
class StrBuilder {
 public:
  void append(std::string_view text, Origin origin);
  // Characters without origin gain `fallback`.
  void append(const Value& string, Origin fallback = kNoOrigin);
  void append(const Value& string, size_t begin, size_t end, Origin fallback = kNoOrigin);
  // As `text` or str(value), in print and in "~".
  void append_printed(const Value& value, Origin fallback = kNoOrigin);
  size_t size() const { return text_.size(); }
  Value finish();
  // The text alone, and where it came from.
  std::string take(std::vector<Run>& runs) {
    runs = std::move(runs_);
    return std::move(text_);
  }

 private:
  std::string text_;
  std::vector<Run> runs_;
};

// Bytes [begin, end) of a string.
Value slice_of(const Value& string, size_t begin, size_t end);
// The origin of the byte at `at`.
Origin origin_at(const Value& string, size_t at);

// Calls `use` with each stretch of a string that has one origin, whole characters, and that origin.
template <typename Use>
void for_each_stretch(const Value& string, const Use& use) {
  const std::string_view text = string.text();
  const std::vector<Run>& runs = string.str().runs;
  if (runs.empty()) return use(text, string.origin);
  for (size_t i = 0; i < runs.size(); ++i) {
    const size_t end = i + 1 < runs.size() ? runs[i + 1].begin : text.size();
    use(text.substr(runs[i].begin, end - runs[i].begin), runs[i].origin);
  }
}

bool is_true(const Value& value);
bool are_equal(const Value& a, const Value& b);
// < 0, 0, > 0. Throws Failure on values without an order.
int compare(const Value& a, const Value& b);
bool contains(const Value& container, const Value& item);
// What iterating gives: items, keys, characters. Throws Failure on what cannot be iterated.
std::vector<Value> iterate(const Value& value);
// "str", "int", "dict", …, for errors.
std::string type_name(const Value& value);

// str(value), and repr(value).
Value to_str(const Value& value);
void append_repr(StrBuilder& out, const Value& value);

struct JsonStyle {
  int indent = -1;  // -1: one line
  bool ascii_only = false, sorted = false;
  std::string item_separator = ", ", key_separator = ": ", indent_text = "";
};
// json.dumps. Throws Failure on what JSON has no text for.
void append_json(StrBuilder& out, const Value& value, const JsonStyle& style);

// Of JSON; all its parts have `origin`.
Value from_json(const OrderedJson& json, Origin origin = kNoOrigin);
// A conversation: each message and all in it with its origins.
Value messages_from_json(const OrderedJson& messages);

}  // namespace moraine::jinja
