#include "text/chat/tojson.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/not_finite.h"
#include "text/jinja/python_text.h"

namespace moraine {
namespace {

void append_string(std::string& out, const std::string& text) {
  out += '"';
  for (char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\b':
        out += "\\b";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void append_value(std::string& out, const OrderedJson& value) {
  switch (value.type()) {
    case OrderedJson::value_t::null:
      out += "null";
      break;
    case OrderedJson::value_t::boolean:
      out += value.get<bool>() ? "true" : "false";
      break;
    case OrderedJson::value_t::number_integer:
      out += std::to_string(value.get<int64_t>());
      break;
    case OrderedJson::value_t::number_unsigned:
      out += std::to_string(value.get<uint64_t>());
      break;
    case OrderedJson::value_t::number_float:
      out += jinja::float_repr(value.get<double>());
      break;
    case OrderedJson::value_t::string:
      append_string(out, value.get_ref<const std::string&>());
      break;
    case OrderedJson::value_t::array: {
      out += '[';
      const char* separator = "";
      for (const OrderedJson& item : value) {
        out += separator;
        append_value(out, item);
        separator = ", ";
      }
      out += ']';
      break;
    }
    case OrderedJson::value_t::object: {
      out += '{';
      const char* separator = "";
      for (const auto& [key, item] : value.items()) {
        out += separator;
        append_string(out, key);
        out += ": ";
        append_value(out, item);
        separator = ", ";
      }
      out += '}';
      break;
    }
    case OrderedJson::value_t::binary:
      out += not_finite_word(value) ? *not_finite_word(value) : *big_integer_digits(value);
      break;
    default:
      MORAINE_ASSERT(false, "not a value of JSON text");
  }
}

}  // namespace

std::string to_python_json(const OrderedJson& value) {
  std::string out;
  append_value(out, value);
  return out;
}

std::string to_python_str(const OrderedJson& value) {
  MORAINE_ASSERT(!value.is_structured(), "Python's text of a list or an object is its repr");
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (auto word = not_finite_word(value)) return *word == "NaN" ? "nan" : *word == "Infinity" ? "inf" : "-inf";
  return value.is_null() ? "None" : to_python_json(value);
}

std::string quoted_for_error(const std::string& text) {
  constexpr size_t kMaxBytes = 60;
  size_t end = std::min(text.size(), kMaxBytes);
  // Not in the middle of a character.
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  std::string out;
  append_string(out, text.substr(0, end));
  out.front() = '\'';
  out.back() = '\'';
  if (end < text.size()) out.insert(out.size() - 1, "…");
  return out;
}

}  // namespace moraine
