// Values as text: Python's str() and repr(), and JSON as Python writes it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja/python_text.h"
#include "text/jinja/value.h"
#include "text/tokenizer/unicode.h"

namespace moraine::jinja {
namespace {

constexpr size_t kMaxDigits = 4300;  // of an int that Python prints

std::string scalar_text(const Value& value) {
  switch (value.kind) {
    case Kind::kUndefined:
      return "";
    case Kind::kNone:
      return "None";
    case Kind::kBoolean:
      return value.truth ? "True" : "False";
    case Kind::kInteger:
      return std::to_string(value.integer_value);
    case Kind::kBigInteger:
      if (value.text().size() > kMaxDigits) throw Failure(fmt::format("an int of more than {} digits", kMaxDigits));
      return value.text();
    case Kind::kFloat:
      return float_repr(value.number_value);
    default:
      throw Failure(fmt::format("a {} cannot be printed", type_name(value)));
  }
}

// What JSON does not write as it is.
bool is_special(char c, bool ascii_only) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || c == '"' || c == '\\' || (ascii_only && byte >= 0x7F);
}

void append_json_string(StrBuilder& out, const Value& value, const JsonStyle& style) {
  out.append("\"", value.origin);
  std::string piece;
  pay_scan(16 * value.text().size());
  for_each_stretch(value, [&](std::string_view text, Origin origin) {
    piece.clear();
    for (size_t at = 0; at < text.size();) {
      size_t plain = at;
      while (plain < text.size() && !is_special(text[plain], style.ascii_only)) ++plain;
      piece.append(text, at, plain - at);
      at = plain;
      if (at < text.size()) append_json(piece, next_code_point(text, at), style.ascii_only);
    }
    out.append(piece, origin);
  });
  out.append("\"", value.origin);
}

std::string json_scalar(const Value& value) {
  switch (value.kind) {
    case Kind::kNone:
      return "null";
    case Kind::kBoolean:
      return value.truth ? "true" : "false";
    case Kind::kInteger:
    case Kind::kBigInteger:
      return scalar_text(value);
    case Kind::kFloat:
      if (std::isnan(value.number_value)) return "NaN";
      if (std::isinf(value.number_value)) return value.number_value < 0 ? "-Infinity" : "Infinity";
      return float_repr(value.number_value);
    default:
      throw Failure(fmt::format("a {} has no JSON text", type_name(value)));
  }
}

void append_json_at(StrBuilder& out, const Value& value, const JsonStyle& style, int depth) {
  Level level;
  pay_step();
  const bool is_dict = value.is(Kind::kDict);
  if (value.is_string()) return append_json_string(out, value, style);
  if (!is_dict && !value.is_sequence()) return out.append(json_scalar(value), value.origin);
  const bool is_indented = style.indent >= 0 || !style.indent_text.empty();
  const auto new_line = [&](int levels) {
    if (!is_indented) return;
    std::string line = "\n";
    for (int i = 0; i < levels; ++i) {
      line += style.indent_text.empty() ? std::string(static_cast<size_t>(style.indent), ' ') : style.indent_text;
    }
    out.append(line, value.origin);
  };
  const size_t size = is_dict ? value.dict().items.size() : value.items().size();
  if (size == 0) return out.append(is_dict ? "{}" : "[]", value.origin);
  out.append(is_dict ? "{" : "[", value.origin);
  std::vector<const std::pair<Value, Value>*> members;
  if (is_dict) {
    for (const auto& item : value.dict().items) members.push_back(&item);
    if (style.sorted) {
      std::stable_sort(members.begin(), members.end(),
                       [](const auto* a, const auto* b) { return compare(a->first, b->first) < 0; });
    }
  }
  for (size_t i = 0; i < size; ++i) {
    if (i > 0) out.append(style.item_separator, value.origin);
    new_line(depth + 1);
    if (!is_dict) {
      append_json_at(out, value.items()[i], style, depth + 1);
      continue;
    }
    const auto& [key, item] = *members[i];
    if (key.is_string()) {
      append_json_string(out, key, style);
    } else {
      out.append("\"" + json_scalar(key) + "\"", key.origin);
    }
    out.append(style.key_separator, value.origin);
    append_json_at(out, item, style, depth + 1);
  }
  new_line(depth);
  out.append(is_dict ? "}" : "]", value.origin);
}

}  // namespace

void append_repr(StrBuilder& out, const Value& value) {
  Level level;
  pay_step();
  const auto append_items = [&](const std::vector<Value>& items) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out.append(", ", value.origin);
      append_repr(out, items[i]);
    }
  };
  switch (value.kind) {
    case Kind::kString: {
      const std::string& text = value.text();
      const char quote = repr_quote(text);
      const std::string_view mark(&quote, 1);
      out.append(mark, value.origin);
      pay_characters(2 * text.size());
      for_each_stretch(value, [&](std::string_view part, Origin origin) {
        std::string piece;
        for (size_t at = 0; at < part.size();) append_repr(piece, next_code_point(part, at), quote);
        out.append(piece, origin);
      });
      out.append(mark, value.origin);
      break;
    }
    case Kind::kList:
      out.append("[", value.origin);
      append_items(value.items());
      out.append("]", value.origin);
      break;
    case Kind::kTuple:
      out.append("(", value.origin);
      append_items(value.items());
      out.append(value.items().size() == 1 ? ",)" : ")", value.origin);
      break;
    case Kind::kDict: {
      out.append("{", value.origin);
      const char* separator = "";
      for (const auto& [key, item] : value.dict().items) {
        out.append(separator, value.origin);
        append_repr(out, key);
        out.append(": ", value.origin);
        append_repr(out, item);
        separator = ", ";
      }
      out.append("}", value.origin);
      break;
    }
    case Kind::kGenerator:
      if (value.view().empty()) throw Failure("a generator cannot be printed");
      out.append(value.view() + "([", value.origin);
      append_items(value.items());
      out.append("])", value.origin);
      break;
    case Kind::kUndefined:
      out.append("Undefined", value.origin);
      break;
    default:
      out.append(scalar_text(value), value.origin);
  }
}

Value to_str(const Value& value) {
  if (value.is_string()) return value;
  StrBuilder out;
  if (value.is_sequence() || value.is(Kind::kDict) || value.is(Kind::kGenerator)) {
    append_repr(out, value);
  } else {
    out.append(scalar_text(value), value.origin);
  }
  return out.finish();
}

void append_json(StrBuilder& out, const Value& value, const JsonStyle& style) { append_json_at(out, value, style, 0); }

}  // namespace moraine::jinja
