#include "text/jinja/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/not_finite.h"
#include "text/jinja/big_integer.h"
#include "text/jinja/python_text.h"
#include "text/tokenizer/unicode.h"

namespace moraine::jinja {
namespace {

constexpr int kMaxDepth = 200;

int depth_of(const Value& value) {
  switch (value.kind) {
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kGenerator:
      return static_cast<const List&>(*value.object).depth;
    case Kind::kDict:
      return value.dict().depth;
    default:
      return 0;
  }
}

int deeper(int depth, const Value& value) {
  depth = std::max(depth, depth_of(value) + 1);
  if (depth > kMaxDepth) throw Failure("lists and dicts nested too deep");
  return depth;
}

Value scalar(Kind kind) {
  Value value;
  value.kind = kind;
  return value;
}

Value with_origin(Value value, Origin origin) {
  value.origin = origin;
  return value;
}

Field field_named(const std::string& key) {
  if (key == "role") return Field::kRole;
  if (key == "content") return Field::kContent;
  if (key == "tool_calls") return Field::kToolCalls;
  if (key == "reasoning_content" || key == "reasoning" || key == "thinking") return Field::kReasoning;
  return Field::kOther;
}

}  // namespace

Value Value::undefined(std::string_view name) {
  Value value;
  if (!name.empty()) {
    auto str = std::make_shared<Str>();
    str->text = name;
    value.object = std::move(str);
  }
  return value;
}
Value Value::none() { return scalar(Kind::kNone); }
Value Value::boolean(bool truth) {
  Value value = scalar(Kind::kBoolean);
  value.truth = truth;
  return value;
}
Value Value::integer(int64_t number) {
  Value value = scalar(Kind::kInteger);
  value.integer_value = number;
  return value;
}
Value Value::number(double number) {
  Value value = scalar(Kind::kFloat);
  value.number_value = number;
  return value;
}
Value Value::big_integer(std::string digits) {
  Value value = string(std::move(digits));
  value.kind = Kind::kBigInteger;
  return value;
}
Value Value::string(std::string text, Origin origin) {
  auto str = std::make_shared<Str>();
  str->text = std::move(text);
  Value value = of(Kind::kString, std::move(str));
  value.origin = origin;
  return value;
}
Value Value::list(std::vector<Value> items, Kind kind) {
  auto list = std::make_shared<List>();
  pay_bytes(sizeof(List) + items.size() * sizeof(Value));
  for (const Value& item : items) list->depth = deeper(list->depth, item);
  list->items = std::move(items);
  return of(kind, std::move(list));
}
Value Value::dict(std::vector<std::pair<Value, Value>> items) {
  auto dict = std::make_shared<Dict>();
  pay_bytes(sizeof(Dict) + items.size() * 2 * sizeof(Value));
  for (const auto& [key, value] : items) dict->depth = deeper(deeper(dict->depth, value), key);
  dict->items = std::move(items);
  return of(Kind::kDict, std::move(dict));
}
Value Value::generator(std::vector<Value> items, std::string view) {
  auto made = std::make_shared<Generator>();
  pay_bytes(sizeof(Generator) + items.size() * sizeof(Value));
  for (const Value& item : items) made->depth = deeper(made->depth, item);
  made->items = std::move(items);
  made->view = std::move(view);
  return of(Kind::kGenerator, std::move(made));
}
Value Value::of(Kind kind, std::shared_ptr<Object> object) {
  Value value = scalar(kind);
  value.object = std::move(object);
  return value;
}

const Value* Dict::find(std::string_view key) const {
  pay_steps(items.size() / 32);
  for (const auto& [name, value] : items) {
    if (!name.is_string() || name.text().size() != key.size()) continue;
    pay_scan(key.size());
    if (name.text() == key) return &value;
  }
  return nullptr;
}

const Value* Dict::find(const Value& key) const {
  if (key.is_string()) return find(key.text());
  pay_steps(items.size() / 8);
  for (const auto& [name, value] : items) {
    if (are_equal(name, key)) return &value;
  }
  return nullptr;
}

void StrBuilder::append(std::string_view text, Origin origin) {
  if (text.empty()) return;
  pay_bytes(text.size());
  if (text_.size() + text.size() > kMaxString) throw Failure("makes too long a text");
  if (runs_.empty() || runs_.back().origin != origin) {
    pay_bytes(sizeof(Run));
    runs_.push_back({text_.size(), origin});
  }
  text_ += text;
}

void StrBuilder::append(const Value& string, Origin fallback) { append(string, 0, string.text().size(), fallback); }

void StrBuilder::append(const Value& string, size_t begin, size_t end, Origin fallback) {
  const Str& str = string.str();
  const std::string_view text = str.text;
  const auto add = [&](size_t from, size_t to, Origin origin) {
    append(text.substr(from, to - from), origin == kNoOrigin ? fallback : origin);
  };
  if (str.runs.empty()) return add(begin, end, string.origin);
  auto run = std::upper_bound(str.runs.begin(), str.runs.end(), begin,
                              [](size_t at, const Run& one) { return at < one.begin; });
  if (run != str.runs.begin()) --run;
  for (; run != str.runs.end() && run->begin < end; ++run) {
    const size_t run_end = std::next(run) == str.runs.end() ? text.size() : std::next(run)->begin;
    add(std::max(begin, run->begin), std::min(end, run_end), run->origin);
  }
}

void StrBuilder::append_printed(const Value& value, Origin fallback) {
  if (value.is_string()) return append(value, fallback);
  if (value.is_undefined()) return;
  append(to_str(value), fallback);
}

Value StrBuilder::finish() {
  pay_bytes(sizeof(Str));
  Value value = Value::string(std::move(text_), runs_.empty() ? kNoOrigin : runs_.front().origin);
  if (runs_.size() > 1) static_cast<Str&>(*value.object).runs = std::move(runs_);
  text_.clear();
  runs_.clear();
  return value;
}

Value slice_of(const Value& string, size_t begin, size_t end) {
  if (begin == 0 && end == string.text().size()) return string;
  StrBuilder out;
  out.append(string, begin, end);
  Value value = out.finish();
  static_cast<Str&>(*value.object).is_markup = string.str().is_markup;
  return value;
}

Origin origin_at(const Value& string, size_t at) {
  const std::vector<Run>& runs = string.str().runs;
  const auto after =
      std::upper_bound(runs.begin(), runs.end(), at, [](size_t place, const Run& run) { return place < run.begin; });
  return after == runs.begin() ? string.origin : std::prev(after)->origin;
}

bool is_true(const Value& value) {
  switch (value.kind) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBoolean:
      return value.truth;
    case Kind::kInteger:
      return value.integer_value != 0;
    case Kind::kFloat:
      return value.number_value != 0;
    case Kind::kString:
      return !value.text().empty();
    case Kind::kList:
    case Kind::kTuple:
      return !value.items().empty();
    case Kind::kDict:
      return !value.dict().items.empty();
    case Kind::kGenerator:
      return value.view().empty() || !value.items().empty();
    default:
      return true;
  }
}

bool are_equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.kind != Kind::kFloat && b.kind != Kind::kFloat) return a.integer() == b.integer();
    return a.number() == b.number();
  }
  if (a.is(Kind::kBigInteger) && b.is(Kind::kFloat)) return compare_numbers(a, b) == 0;
  if (b.is(Kind::kBigInteger) && a.is(Kind::kFloat)) return compare_numbers(b, a) == 0;
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
    case Kind::kBigInteger:
      if (a.text().size() != b.text().size()) return false;
      pay_scan(a.text().size());
      return a.text() == b.text();
    case Kind::kList:
    case Kind::kTuple:
      pay_step();
      return a.object == b.object ||
             std::equal(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(), are_equal);
    case Kind::kDict: {
      pay_step();
      if (a.object == b.object) return true;
      const Dict &left = a.dict(), &right = b.dict();
      return left.items.size() == right.items.size() &&
             std::all_of(left.items.begin(), left.items.end(), [&](const auto& item) {
               const Value* other = right.find(item.first);
               return other != nullptr && are_equal(item.second, *other);
             });
    }
    default:
      return a.object == b.object;
  }
}

int compare(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.kind != Kind::kFloat && b.kind != Kind::kFloat)
      return a.integer() < b.integer() ? -1 : a.integer() > b.integer() ? 1 : 0;
    if (std::isnan(a.number()) || std::isnan(b.number())) throw Failure("NaN has no order");
    return a.number() < b.number() ? -1 : a.number() > b.number() ? 1 : 0;
  }
  const auto is_any_number = [](const Value& value) { return value.is_number() || value.is(Kind::kBigInteger); };
  if (is_any_number(a) && is_any_number(b)) return compare_numbers(a, b);
  // UTF-8 sorts as its code points do.
  if (a.is_string() && b.is_string()) {
    pay_scan(std::min(a.text().size(), b.text().size()));
    return a.text().compare(b.text());
  }
  if (a.is_sequence() && a.kind == b.kind) {
    pay_step();
    const auto &left = a.items(), &right = b.items();
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!are_equal(left[i], right[i])) return compare(left[i], right[i]);
    }
    return left.size() < right.size() ? -1 : left.size() > right.size() ? 1 : 0;
  }
  throw Failure(fmt::format("{} and {} have no order", type_name(a), type_name(b)));
}

bool contains(const Value& container, const Value& item) {
  switch (container.kind) {
    case Kind::kString:
      if (!item.is_string()) throw Failure(fmt::format("'in' of a string needs a string, not {}", type_name(item)));
      return find_text(container.text(), item.text()) != std::string::npos;
    case Kind::kDict:
      if (item.is(Kind::kList) || item.is(Kind::kDict))
        throw Failure(fmt::format("a {} cannot be a key", type_name(item)));
      return container.dict().find(item) != nullptr;
    case Kind::kList:
    case Kind::kTuple:
      pay_steps(container.items().size() / 8);
      return std::any_of(container.items().begin(), container.items().end(),
                         [&](const Value& one) { return are_equal(one, item); });
    case Kind::kGenerator: {
      const std::vector<Value> items = iterate(container);
      return std::any_of(items.begin(), items.end(), [&](const Value& one) { return are_equal(one, item); });
    }
    case Kind::kUndefined:
      return false;
    default:
      throw Failure(fmt::format("nothing can be in a {}", type_name(container)));
  }
}

std::vector<Value> iterate(const Value& value) {
  std::vector<Value> items;
  switch (value.kind) {
    case Kind::kUndefined:
      break;
    case Kind::kList:
    case Kind::kTuple:
      pay_bytes(value.items().size() * sizeof(Value));
      items = value.items();
      break;
    case Kind::kGenerator:
      pay_bytes(value.items().size() * sizeof(Value));
      items = value.items();
      if (value.view().empty()) static_cast<Generator&>(*value.object).items.clear();
      break;
    case Kind::kDict:
      pay_bytes(value.dict().items.size() * sizeof(Value));
      for (const auto& item : value.dict().items) items.push_back(item.first);
      break;
    case Kind::kString: {
      const std::string& text = value.text();
      pay_steps(text.size());
      pay_bytes(text.size() * sizeof(Value));
      for (size_t at = 0; at < text.size();) {
        const size_t begin = at;
        next_code_point(text, at);
        items.push_back(slice_of(value, begin, at));
      }
      break;
    }
    default:
      throw Failure(fmt::format("a {} cannot be iterated", type_name(value)));
  }
  return items;
}

std::string type_name(const Value& value) {
  switch (value.kind) {
    case Kind::kUndefined:
      return value.object != nullptr ? fmt::format("undefined '{}'", value.text()) : "undefined value";
    case Kind::kNone:
      return "None";
    case Kind::kBoolean:
      return "bool";
    case Kind::kInteger:
    case Kind::kBigInteger:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kGenerator:
      return value.view().empty() ? "generator" : value.view();
    case Kind::kNamespace:
      return "namespace";
    case Kind::kMacro:
      return "macro";
    case Kind::kLoop:
      return "loop";
    default:
      return "function";
  }
}

Value from_json(const OrderedJson& json, Origin origin) {
  switch (json.type()) {
    case OrderedJson::value_t::null:
      return with_origin(Value::none(), origin);
    case OrderedJson::value_t::boolean:
      return with_origin(Value::boolean(json.get<bool>()), origin);
    case OrderedJson::value_t::number_integer:
      return with_origin(Value::integer(json.get<int64_t>()), origin);
    case OrderedJson::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
        return with_origin(Value::big_integer(std::to_string(json.get<uint64_t>())), origin);
      return with_origin(Value::integer(json.get<int64_t>()), origin);
    case OrderedJson::value_t::number_float:
      return with_origin(Value::number(json.get<double>()), origin);
    case OrderedJson::value_t::string:
      return Value::string(json.get_ref<const std::string&>(), origin);
    case OrderedJson::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const OrderedJson& item : json) items.push_back(from_json(item, origin));
      return with_origin(Value::list(std::move(items)), origin);
    }
    case OrderedJson::value_t::object: {
      std::vector<std::pair<Value, Value>> items;
      items.reserve(json.size());
      for (const auto& [key, item] : json.items())
        items.emplace_back(Value::string(key, origin), from_json(item, origin));
      return with_origin(Value::dict(std::move(items)), origin);
    }
    default:
      if (const auto word = not_finite_word(json)) {
        return with_origin(Value::number(*word == "NaN"        ? std::nan("")
                                         : *word == "Infinity" ? HUGE_VAL
                                                               : -HUGE_VAL),
                           origin);
      }
      return with_origin(Value::big_integer(big_integer_digits(json).value_or("0")), origin);
  }
}

Value messages_from_json(const OrderedJson& messages) {
  std::vector<Value> items;
  int index = 0;
  for (const OrderedJson& message : messages) {
    const Origin whole = origin_of(index, Field::kOther);
    if (!message.is_object()) {
      items.push_back(from_json(message, whole));
    } else {
      std::vector<std::pair<Value, Value>> members;
      for (const auto& [key, member] : message.items()) {
        const Origin origin = origin_of(index, field_named(key));
        members.emplace_back(Value::string(key, origin), from_json(member, origin));
      }
      items.push_back(with_origin(Value::dict(std::move(members)), whole));
      items.back().is_message = true;
    }
    ++index;
  }
  return Value::list(std::move(items));
}

}  // namespace moraine::jinja
