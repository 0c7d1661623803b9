#include "text/jinja/python_text.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "text/jinja/budget.h"
#include "text/tokenizer/unicode.h"

namespace moraine::jinja {
namespace {

utf8proc_category_t category_of(char32_t code_point) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

bool is_printable(char32_t code_point) {
  if (code_point == ' ') return true;
  switch (category_of(code_point)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

// "\\" and the code in hexadecimal digits.
void append_escape(std::string& out, char letter, char32_t code, int digits) {
  out += '\\';
  out += letter;
  for (int shift = 4 * digits - 4; shift >= 0; shift -= 4) out += "0123456789abcdef"[code >> shift & 15];
}

}  // namespace

bool is_python_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string_view strip_left(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    size_t next = at;
    if (!is_python_space(next_code_point(text, next))) break;
    at = next;
  }
  return text.substr(at);
}

std::string_view strip_right(std::string_view text) {
  while (!text.empty()) {
    const size_t begin = previous_code_point(text, text.size());
    size_t at = begin;
    if (!is_python_space(next_code_point(text, at))) break;
    text = text.substr(0, begin);
  }
  return text;
}

// memmem takes time in proportion to the text, whatever is looked for.
size_t find_text(std::string_view text, std::string_view what, size_t at) {
  if (at > text.size()) return text.npos;
  const void* found = memmem(text.data() + at, text.size() - at, what.data(), what.size());
  const size_t place =
      found == nullptr ? text.npos : static_cast<size_t>(static_cast<const char*>(found) - text.data());
  pay_scan(std::min(place, text.size()) - at);
  return place;
}

size_t find_last_text(std::string_view text, std::string_view what) {
  if (what.size() > text.size()) return text.npos;
  // Some places at a time, which are paid for first.
  const size_t at_once = std::max<size_t>(1, 65536 / (what.size() + 16));
  for (size_t end = text.size() - what.size() + 1; end > 0;) {
    const size_t begin = end - std::min(end, at_once);
    pay_scan((end - begin) * (what.size() + 16));
    const size_t found = text.substr(begin, end - 1 + what.size() - begin).rfind(what);
    if (found != text.npos) return begin + found;
    end = begin;
  }
  return text.npos;
}

size_t length_of(std::string_view text) {
  pay_scan(8 * text.size());
  size_t length = 0;
  for (char c : text) length += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return length;
}

size_t byte_of(std::string_view text, size_t index) {
  if (index >= text.size()) return text.size();
  pay_characters(index);
  size_t at = 0;
  while (index-- > 0 && at < text.size()) next_code_point(text, at);
  return at;
}

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  // "d.ddde±XX" with the shortest digits.
  char buffer[64];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  const std::string scientific(buffer, end);
  const size_t e = scientific.find('e');
  const int exponent = std::stoi(scientific.substr(e + 1));
  std::string digits = scientific.substr(0, e);
  std::string sign;
  if (digits[0] == '-') sign = "-", digits.erase(0, 1);
  if (digits.size() > 1) digits.erase(1, 1);  // the point

  // Python changes to exponents below 1e-4 and from 1e16 on.
  if (exponent < -4 || exponent >= 16) {
    const std::string lead = digits.substr(0, 1), fraction = digits.substr(1);
    return fmt::format("{}{}{}{}e{}{:02}", sign, lead, fraction.empty() ? "" : ".", fraction, exponent < 0 ? '-' : '+',
                       std::abs(exponent));
  }
  if (exponent < 0) return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

char repr_quote(std::string_view text) {
  return text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
}

void append_repr(std::string& out, char32_t c, char quote) {
  if (c == static_cast<char32_t>(quote) || c == '\\') {
    out += '\\';
    out += static_cast<char>(c);
  } else if (c == '\n' || c == '\r' || c == '\t') {
    out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
  } else if (is_printable(c)) {
    append_utf8(out, c);
  } else if (c < 0x100) {
    append_escape(out, 'x', c, 2);
  } else if (c < 0x10000) {
    append_escape(out, 'u', c, 4);
  } else {
    append_escape(out, 'U', c, 8);
  }
}

void append_json(std::string& out, char32_t c, bool ascii_only) {
  constexpr std::string_view kSpecial = "\"\\\n\r\t\f\b", kLetters = "\"\\nrtfb";
  if (const size_t special = c < 0x80 ? kSpecial.find(static_cast<char>(c)) : kSpecial.npos; special != kSpecial.npos) {
    out += '\\';
    out += kLetters[special];
  } else if (c < 0x20 || (ascii_only && c >= 0x7F && c < 0x10000 && c != 0x7F)) {
    append_escape(out, 'u', c, 4);
  } else if (ascii_only && c >= 0x10000) {
    const char32_t rest = c - 0x10000;
    append_escape(out, 'u', 0xD800 + (rest >> 10), 4);
    append_escape(out, 'u', 0xDC00 + (rest & 0x3FF), 4);
  } else {
    append_utf8(out, c);
  }
}

void append_upper(std::string& out, char32_t c) {
  constexpr std::pair<char32_t, const char*> kSpecial[] = {{0xDF, "SS"},   {0xFB00, "FF"},  {0xFB01, "FI"},
                                                           {0xFB02, "FL"}, {0xFB03, "FFI"}, {0xFB04, "FFL"},
                                                           {0xFB05, "ST"}, {0xFB06, "ST"},  {0x149, "\u02bcN"}};
  for (const auto& [from, to] : kSpecial) {
    if (c == from) {
      out += to;
      return;
    }
  }
  append_utf8(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
}

void append_title(std::string& out, char32_t c) {
  std::string upper;
  append_upper(upper, c);
  size_t rest = 0;
  const char32_t first = next_code_point(upper, rest);
  if (rest == upper.size()) {
    append_utf8(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
    return;
  }
  // One that becomes several: "Ss" of \u00df; but the N of \u0149 stays large.
  append_utf8(out, first);
  for (const char letter : std::string_view(upper).substr(rest))
    out += c == 0x149 ? letter : static_cast<char>(letter | 32);
}

void append_lower(std::string& out, char32_t c) {
  if (c == 0x130) {
    out += "i\u0307";
    return;
  }
  append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

bool is_letter(char32_t c) {
  const utf8proc_category_t category = category_of(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool is_digit_of_any_script(char32_t c) { return category_of(c) == UTF8PROC_CATEGORY_ND; }
bool is_upper(char32_t c) { return category_of(c) == UTF8PROC_CATEGORY_LU; }
bool is_lower(char32_t c) { return category_of(c) == UTF8PROC_CATEGORY_LL; }

}  // namespace moraine::jinja
