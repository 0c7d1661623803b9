// Jinja's filters of texts and numbers, and transformers' own tojson.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "text/jinja/big_integer.h"
#include "text/jinja/filters.h"
#include "text/jinja/python_text.h"
#include "text/tokenizer/unicode.h"

namespace moraine::jinja {
namespace {

Value length(const Value& value, const Args& args, const Caller&) {
  args.check("length", 0, {});
  switch (value.kind) {
    case Kind::kUndefined:
      return Value::integer(0);
    case Kind::kString:
      return Value::integer(static_cast<int64_t>(length_of(value.text())));
    case Kind::kList:
    case Kind::kTuple:
      return Value::integer(static_cast<int64_t>(value.items().size()));
    case Kind::kDict:
      return Value::integer(static_cast<int64_t>(value.dict().items.size()));
    case Kind::kGenerator:
      if (!value.view().empty()) return Value::integer(static_cast<int64_t>(value.items().size()));
      [[fallthrough]];
    default:
      throw Failure(fmt::format("a {} has no length", type_name(value)));
  }
}

Value trim(const Value& value, const Args& args, const Caller& caller) {
  args.check("trim", 1, {"chars"});
  return method_of(to_str(value), "strip", {{args.get(0, "chars", Value::none())}, {}}, caller);
}

Value default_value(const Value& value, const Args& args, const Caller&) {
  args.check("default", 2, {"default_value", "boolean"});
  const bool is_missing = value.is_undefined() || (flag(args, 1, "boolean", false) && !is_true(value));
  return is_missing ? args.get(0, "default_value", Value::string("")) : value;
}

Value tojson(const Value& value, const Args& args, const Caller& caller) {
  args.check("tojson", 4, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ascii_only = flag(args, 0, "ensure_ascii", false);
  style.sorted = flag(args, 3, "sort_keys", false);
  const Value indent = args.get(1, "indent", Value::none());
  if (indent.is_string()) {
    style.indent = 0;
    style.indent_text = indent.text();
  } else if (!indent.is(Kind::kNone)) {
    if (!indent.is_integer()) throw Failure("'indent' must be an int or a str");
    style.indent = static_cast<int>(std::clamp<int64_t>(indent.integer(), 0, 1000));
  }
  if (style.indent >= 0) style.item_separator = ",";
  const Value separators = args.get(2, "separators", Value::none());
  if (!separators.is(Kind::kNone)) {
    if (!separators.is_sequence() || separators.items().size() != 2 || !separators.items()[0].is_string() ||
        !separators.items()[1].is_string())
      throw Failure("'separators' must be two strs");
    style.item_separator = separators.items()[0].text();
    style.key_separator = separators.items()[1].text();
  }
  StrBuilder out;
  append_json(out, value, style);
  (void)caller;
  return out.finish();
}

Value string(const Value& value, const Args& args, const Caller&) {
  args.check("string", 0, {});
  return to_str(value);
}

Value safe(const Value& value, const Args& args, const Caller&) {
  args.check("safe", 0, {});
  const Value text = to_str(value);
  Value marked = slice_of(text, 0, text.text().size());
  auto str = std::make_shared<Str>(marked.str());
  str->is_markup = true;
  marked.object = std::move(str);
  return marked;
}

Value escape(const Value& value, const Args& args, const Caller& caller) {
  args.check("escape", 0, {});
  if (value.is_string() && value.str().is_markup) return value;
  return safe(escape_html(to_str(value)), {}, caller);
}

Value lower(const Value& value, const Args& args, const Caller& caller) {
  return method_of(to_str(value), "lower", args, caller);
}
Value upper(const Value& value, const Args& args, const Caller& caller) {
  return method_of(to_str(value), "upper", args, caller);
}
Value capitalize(const Value& value, const Args& args, const Caller& caller) {
  return method_of(to_str(value), "capitalize", args, caller);
}
Value center(const Value& value, const Args& args, const Caller& caller) {
  args.check("center", 1, {"width"});
  return method_of(to_str(value), "center", {{Value::integer(integer_argument(args, 0, "width", 80))}, {}}, caller);
}

// Unlike str.title: words begin after white space, dashes and opening brackets only.
Value title(const Value& value, const Args& args, const Caller& caller) {
  args.check("title", 0, {});
  const Value whole = to_str(value);
  const std::string& text = whole.text();
  pay_characters(text.size());
  StrBuilder out;
  for (size_t at = 0; at < text.size();) {
    pay_step();
    size_t end = at;
    next_code_point(text, end);
    const auto begins = [&](size_t place) {
      size_t next = place;
      const char32_t c = next_code_point(text, next);
      return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || is_python_space(c);
    };
    if (begins(at)) {
      out.append(whole, at, end);
      at = end;
      continue;
    }
    size_t stop = end;
    while (stop < text.size() && !begins(stop)) next_code_point(text, stop);
    out.append(method_of(slice_of(whole, at, end), "upper", {}, caller));
    out.append(method_of(slice_of(whole, end, stop), "lower", {}, caller));
    at = stop;
  }
  return out.finish();
}

Value replace(const Value& value, const Args& args, const Caller& caller) {
  args.check("replace", 3, {"old", "new", "count"});
  const Value *old = args.find(0, "old"), *with = args.find(1, "new"), *count = args.find(2, "count");
  if (old == nullptr || with == nullptr) throw Failure("replace needs two arguments");
  Args given{{to_str(*old), to_str(*with)}, {}};
  if (count != nullptr && !count->is(Kind::kNone)) given.values.push_back(*count);
  return method_of(to_str(value), "replace", given, caller);
}

std::string number_text(const Value& value) {
  std::string text(strip_left(strip_right(value.text())));
  text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
  return text;
}

bool as_float(const Value& value, double& number) {
  if (value.is(Kind::kBigInteger)) return number = as_number(value), true;
  if (value.is_number()) return number = value.number(), true;
  if (!value.is_string()) return false;
  const std::string text = number_text(value);
  if (text.empty() || text.find_first_of("xX(") != text.npos) return false;
  char* end = nullptr;
  number = std::strtod(text.c_str(), &end);
  return *end == '\0';
}

Value to_int(const Value& value, const Args& args, const Caller&) {
  args.check("int", 2, {"default", "base"});
  if (value.is_undefined()) throw Failure(fmt::format("{} is used", type_name(value)));
  const int64_t base = integer_argument(args, 1, "base", 10);
  if (value.is_integer()) return Value::integer(value.integer());
  if (value.is(Kind::kBigInteger)) return value;
  if (value.is_string() && base >= 2 && base <= 36) {
    std::string text = number_text(value);
    if (base == 16 || base == 8 || base == 2) {
      const size_t sign = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
      const char letter = base == 16 ? 'x' : base == 8 ? 'o' : 'b';
      if (text.size() > sign + 1 && text[sign] == '0' && (text[sign + 1] | 32) == letter) text.erase(sign, 2);
    }
    char* end = nullptr;
    errno = 0;
    const int64_t number = std::strtoll(text.c_str(), &end, static_cast<int>(base));
    if (!text.empty() && *end == '\0') {
      if (errno != ERANGE) return Value::integer(number);
      if (base != 10 || text.size() > 4300) throw Failure("too large an integer");
      return BigInteger::from_digits(text).value();
    }
  }
  if (double number = 0; as_float(value, number) && std::isfinite(number)) {
    return BigInteger::from_float(number).value();
  }
  return args.get(0, "default", Value::integer(0));
}

Value to_float(const Value& value, const Args& args, const Caller&) {
  args.check("float", 1, {"default"});
  if (value.is_undefined()) throw Failure(fmt::format("{} is used", type_name(value)));
  double number = 0;
  return as_float(value, number) ? Value::number(number) : args.get(0, "default", Value::number(0));
}

Value abs(const Value& value, const Args& args, const Caller&) {
  args.check("abs", 0, {});
  if (value.is(Kind::kFloat)) return Value::number(std::fabs(value.number_value));
  if (!is_whole(value)) throw Failure(fmt::format("abs needs a number, not {}", type_name(value)));
  const BigInteger number = BigInteger::of(value);
  return (number.is_negative() ? -number : number).value();
}

Value round(const Value& value, const Args& args, const Caller&) {
  args.check("round", 2, {"precision", "method"});
  const int64_t precision = integer_argument(args, 0, "precision", 0);
  const std::string how = to_str(args.get(1, "method", Value::string("common"))).text();
  if (value.is(Kind::kBigInteger) && how == "common" && precision >= 0) return value;
  if (!value.is_number()) throw Failure(fmt::format("round needs a number, not {}", type_name(value)));
  if (precision < 0 || precision > 300) throw Failure("this precision is not supported");
  if (how == "common") {
    if (value.is_integer()) return Value::integer(value.integer());
    if (!std::isfinite(value.number())) return value;
    return Value::number(std::strtod(fmt::format("{:.{}f}", value.number(), precision).c_str(), nullptr));
  }
  if (how != "ceil" && how != "floor") throw Failure("round knows 'common', 'ceil' and 'floor'");
  const double scale = std::pow(10, static_cast<double>(precision)), scaled = value.number() * scale;
  return Value::number((how == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Value indent(const Value& value, const Args& args, const Caller& caller) {
  if (!value.is_string()) throw Failure(fmt::format("indent needs a str, not {}", type_name(value)));
  args.check("indent", 3, {"width", "first", "blank"});
  const Value width = args.get(0, "width", Value::integer(4));
  const bool first_too = flag(args, 1, "first", false), blank_too = flag(args, 2, "blank", false);
  std::string by;
  if (width.is_string()) {
    by = width.text();
  } else {
    by = std::string(static_cast<size_t>(std::clamp<int64_t>(integer_argument(args, 0, "width", 4), 0, 1000)), ' ');
  }
  const Origin origin = caller.template_origin();
  StrBuilder with_newline;
  with_newline.append(to_str(value));
  with_newline.append("\n", origin);
  const Value lines = method_of(with_newline.finish(), "splitlines", {}, caller);
  StrBuilder out;
  if (first_too) out.append(by, origin);
  for (size_t i = 0; i < lines.items().size(); ++i) {
    const Value& line = lines.items()[i];
    if (i > 0) {
      out.append("\n", origin);
      if (blank_too || !line.text().empty()) out.append(by, origin);
    }
    out.append(line);
  }
  return out.finish();
}

Value wordcount(const Value& value, const Args& args, const Caller&) {
  args.check("wordcount", 0, {});
  const std::string text = to_str(value).text();
  pay_characters(2 * text.size());
  int64_t count = 0;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    const bool is_word = is_word_character(c);
    count += is_word && !in_word;
    in_word = is_word;
  }
  return Value::integer(count);
}

Value truncate(const Value& value, const Args& args, const Caller& caller) {
  const bool is_text = value.is_string();
  if (value.is_undefined()) return value;
  if (!is_text && !value.is(Kind::kList) && !value.is(Kind::kTuple) && !value.is(Kind::kDict))
    throw Failure(fmt::format("truncate needs a str, not {}", type_name(value)));
  args.check("truncate", 4, {"length", "killwords", "end", "leeway"});
  const int64_t longest = integer_argument(args, 0, "length", 255), leeway = integer_argument(args, 3, "leeway", 5);
  const Value end = args.get(2, "end", Value::string("..."));
  if (!end.is_string()) throw Failure("'end' must be a str");
  const auto end_length = static_cast<int64_t>(length_of(end.text()));
  if (longest < end_length || leeway < 0) throw Failure("truncate needs a length of at least that of its end");
  const size_t length = is_text ? length_of(value.text()) : iterate(value).size();
  if (static_cast<int64_t>(length) <= longest + leeway) return value;
  if (!is_text) throw Failure(fmt::format("truncate needs a str, not {}", type_name(value)));
  const Value text = to_str(value);
  Value kept = get_slice(text, Value::none(), Value::integer(longest - end_length), Value::none());
  if (!flag(args, 1, "killwords", false)) {
    const size_t space = kept.text().rfind(' ');
    if (space != std::string::npos) kept = slice_of(kept, 0, space);
  }
  StrBuilder out;
  out.append(kept);
  out.append(end, caller.template_origin());
  return out.finish();
}

Value attr(const Value& value, const Args& args, const Caller&) {
  const Value& name = first_argument(args, "name", "attr");
  if (!name.is_string()) return Value::undefined("attr");
  if (value.is_undefined()) throw Failure(fmt::format("{} is used", type_name(value)));
  // Members of a dict are no attributes of it.
  if (value.is(Kind::kDict) && !has_method(value, name.text())) return Value::undefined(name.text());
  return get_attribute(value, name.text());
}

Value format(const Value& value, const Args& args, const Caller&) {
  if (!args.named.empty()) {
    if (!args.values.empty()) throw Failure("format takes values with names or without");
    std::vector<std::pair<Value, Value>> items;
    for (const auto& [name, item] : args.named) items.emplace_back(Value::string(name), item);
    return format_percent(to_str(value), Value::dict(std::move(items)));
  }
  return format_percent(to_str(value), Value::list(args.values, Kind::kTuple));
}

constexpr Filter kFilters[] = {
    {"tojson", tojson}, {"length", length},  {"count", length},          {"string", string},
    {"trim", trim},     {"safe", safe},      {"default", default_value}, {"d", default_value},
    {"lower", lower},   {"upper", upper},    {"replace", replace},       {"capitalize", capitalize},
    {"int", to_int},    {"float", to_float}, {"title", title},           {"abs", abs},
    {"round", round},   {"indent", indent},  {"wordcount", wordcount},   {"truncate", truncate},
    {"center", center}, {"attr", attr},      {"format", format},         {"escape", escape},
    {"e", escape},
};

}  // namespace

int find_filter(std::string_view name) {
  for (size_t i = 0; i < std::size(kFilters); ++i) {
    if (kFilters[i].name == name) return static_cast<int>(i);
  }
  for (size_t i = 0; i < list_filters().size(); ++i) {
    if (list_filters()[i].name == name) return static_cast<int>(std::size(kFilters) + i);
  }
  return -1;
}

Value apply_filter(int filter, const Value& value, const Arguments& arguments, const Caller& caller) {
  Level level;
  pay_step();
  const auto index = static_cast<size_t>(filter);
  const Filter& found = index < std::size(kFilters) ? kFilters[index] : list_filters()[index - std::size(kFilters)];
  return found.apply(value, arguments, caller);
}

Value escape_html(const Value& text) {
  StrBuilder out;
  const std::string& from = text.text();
  for (size_t at = 0; at < from.size();) {
    const size_t mark = std::min(from.find_first_of("&<>'\"", at), from.size());
    out.append(text, at, mark);
    if (mark == from.size()) break;
    const char c = from[mark];
    out.append(c == '&'    ? "&amp;"
               : c == '<'  ? "&lt;"
               : c == '>'  ? "&gt;"
               : c == '\'' ? "&#39;"
                           : "&#34;",
               origin_at(text, mark));
    at = mark + 1;
  }
  return out.finish();
}

Value add(const Value& a, const Value& b, Origin fallback) {
  if (a.is_string() && b.is_string()) {
    const bool is_markup = a.str().is_markup || b.str().is_markup;
    StrBuilder out;
    out.append(is_markup && !a.str().is_markup ? escape_html(a) : a, fallback);
    out.append(is_markup && !b.str().is_markup ? escape_html(b) : b, fallback);
    Value sum = out.finish();
    static_cast<Str&>(*sum.object).is_markup = is_markup;
    return sum;
  }
  if (a.is_sequence() && a.kind == b.kind) {
    std::vector<Value> items = a.items();
    items.insert(items.end(), b.items().begin(), b.items().end());
    return Value::list(std::move(items), a.kind);
  }
  if (is_whole(a) && is_whole(b)) {
    int64_t sum = 0;
    if (a.is_integer() && b.is_integer() && !__builtin_add_overflow(a.integer(), b.integer(), &sum))
      return Value::integer(sum);
    return (BigInteger::of(a) + BigInteger::of(b)).value();
  }
  if (a.is(Kind::kBigInteger) && b.is(Kind::kFloat)) return Value::number(as_number(a) + b.number_value);
  if (b.is(Kind::kBigInteger) && a.is(Kind::kFloat)) return Value::number(a.number_value + as_number(b));
  if (a.is_number() && b.is_number()) return Value::number(a.number() + b.number());
  throw Failure(fmt::format("{} and {} cannot be added", type_name(a), type_name(b)));
}

}  // namespace moraine::jinja
