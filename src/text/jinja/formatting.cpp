// "format % values" and str.format.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja/big_integer.h"
#include "text/jinja/functions.h"
#include "text/jinja/python_text.h"

namespace moraine::jinja {
namespace {

// One value by a format specification of str.format, which fmt's resembles.
Value formatted(const Value& value, const std::string& spec) {
  if (spec.empty()) return to_str(value);
  if (spec.find_first_of("{}n%_") != spec.npos || spec.size() > 12) throw Failure("this format is not supported");
  int64_t width = 0;
  for (char c : spec) {
    width = c >= '0' && c <= '9' ? width * 10 + (c - '0') : 0;
    if (width > 1000) throw Failure("too wide a format");
  }
  try {
    const std::string pattern = "{:" + spec + "}";
    if (value.is(Kind::kInteger)) {
      if (std::string("eEfFgG").find(spec.back()) != std::string::npos)
        return Value::string(fmt::format(fmt::runtime(pattern), value.number()), value.origin);
      return Value::string(fmt::format(fmt::runtime(pattern), value.integer_value), value.origin);
    }
    if (value.is(Kind::kFloat))
      return Value::string(fmt::format(fmt::runtime(pattern), value.number_value), value.origin);
    if (value.is_string()) return Value::string(fmt::format(fmt::runtime(pattern), value.text()), origin_at(value, 0));
  } catch (const fmt::format_error& error) {
    throw Failure(fmt::format("a malformed format: {}", error.what()));
  }
  throw Failure(fmt::format("a {} has no such format", type_name(value)));
}

}  // namespace

Value format_braces(const Value& string, const Arguments& args) {
  const std::string& text = string.text();
  StrBuilder out;
  size_t next = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t mark = text.find_first_of("{}", at);
    out.append(string, at, std::min(mark, text.size()));
    if (mark == text.npos) break;
    if (mark + 1 < text.size() && text[mark + 1] == text[mark]) {
      out.append(string, mark, mark + 1);
      at = mark + 2;
      continue;
    }
    const size_t end = text.find('}', mark);
    if (text[mark] == '}' || end == text.npos) throw Failure("a single brace in a format");
    pay_step();
    const std::string field = text.substr(mark + 1, end - mark - 1);
    const size_t colon = field.find(':');
    const std::string name = field.substr(0, colon), spec = colon == field.npos ? "" : field.substr(colon + 1);
    const bool is_number = !name.empty() && name.size() < 6 && name.find_first_not_of("0123456789") == name.npos;
    if (!is_number && name.find_first_of(".[!") != name.npos) throw Failure("this format is not supported");
    const Value* value = name.empty() ? args.find(next++, "")
                         : is_number  ? args.find(static_cast<size_t>(std::stoi(name)), "")
                                      : args.find(SIZE_MAX, name);
    if (value == nullptr) throw Failure("a format without its value");
    out.append(formatted(*value, spec));
    at = end + 1;
  }
  return out.finish();
}

Value format_percent(const Value& format, const Value& given) {
  const std::string& text = format.text();
  const std::vector<Value> values = given.is(Kind::kTuple) ? given.items() : std::vector<Value>{given};
  size_t next = 0;
  bool is_named = false;
  StrBuilder out;
  for (size_t at = 0; at < text.size();) {
    pay_step();
    const size_t mark = text.find('%', at);
    out.append(format, at, std::min(mark, text.size()));
    if (mark == text.npos) break;
    at = mark + 1;
    if (at < text.size() && text[at] == '%') {
      out.append(format, at, at + 1);
      ++at;
      continue;
    }
    const Value* value = nullptr;
    if (at < text.size() && text[at] == '(') {
      const size_t end = text.find(')', at);
      if (end == text.npos || !given.is(Kind::kDict)) throw Failure("a malformed format");
      value = given.dict().find(std::string_view(text).substr(at + 1, end - at - 1));
      if (value == nullptr) throw Failure("a format without its value");
      at = end + 1;
      is_named = true;
    }
    const size_t letter = text.find_first_not_of("0123456789.+- #", at);
    if (letter == text.npos || letter - at > 8) throw Failure("a malformed format");
    std::string spec = text.substr(at, letter - at);
    if (value == nullptr) {
      if (next >= values.size()) throw Failure("a format without its value");
      value = &values[next++];
    }
    const char kind = text[letter];
    at = letter + 1;
    if (kind == 's' && spec.empty()) {
      out.append_printed(*value);
    } else if (kind == 'r' && spec.empty()) {
      append_repr(out, *value);
    } else if (kind == 'd' || kind == 'i') {
      if (!value->is_number() && !is_whole(*value))
        throw Failure(fmt::format("%d needs a number, not {}", type_name(*value)));
      if (value->is(Kind::kFloat) && !std::isfinite(value->number_value)) throw Failure("%d needs a finite number");
      const Value whole =
          (value->is(Kind::kFloat) ? BigInteger::from_float(value->number_value) : BigInteger::of(*value)).value();
      if (spec.starts_with('-') || (whole.is(Kind::kBigInteger) && !spec.empty()))
        throw Failure("this format is not supported");
      out.append(formatted(whole, spec.empty() ? "" : spec + "d"));
    } else if (kind == 'f' || kind == 'e' || kind == 'g') {
      if (!value->is_number()) throw Failure(fmt::format("%f needs a number, not {}", type_name(*value)));
      if (spec.starts_with('-')) throw Failure("this format is not supported");
      out.append(formatted(Value::number(value->number()), spec + kind));
    } else if (kind == 's' && spec.find_first_of(".+#") == spec.npos) {
      const bool is_left = spec.starts_with('-');
      out.append(formatted(to_str(*value), (is_left ? "<" : ">") + spec.substr(is_left ? 1 : 0)));
    } else {
      throw Failure("this format is not supported");
    }
  }
  // Python takes whatever has items by keys for the dict of "%(name)s", also where no place asks for any.
  const bool is_mapping = given.is(Kind::kDict) || given.is(Kind::kList) || given.is_undefined();
  if (!is_named && next < values.size() && !is_mapping) throw Failure("a format has more values than places");
  return out.finish();
}

}  // namespace moraine::jinja
