#include "text/chat/python_literal.h"

#include <string>

#include "base/error.h"
#include "text/tokenizer/unicode.h"

namespace moraine {
namespace {

constexpr int kMaxLiteralDepth = 64;

// Reads one value; every function returns false on what is no literal.
class LiteralReader {
 public:
  explicit LiteralReader(std::string_view text) : rest_(text) {}

  bool read(OrderedJson& value, int depth = 0) {
    skip_space();
    if (rest_.empty() || depth > kMaxLiteralDepth) return false;
    switch (rest_.front()) {
      case '[':
        return read_list(value, ']', depth);
      case '(':
        return read_list(value, ')', depth);
      case '{':
        return read_dict(value, depth);
      case '\'':
      case '"': {
        std::string text;
        if (!read_text(text)) return false;
        value = std::move(text);
        return true;
      }
      default:
        return read_word(value);
    }
  }

  bool at_end() {
    skip_space();
    return rest_.empty();
  }

 private:
  void skip_space() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\r\n"), rest_.size())); }

  bool take(char c) {
    skip_space();
    if (!rest_.starts_with(c)) return false;
    rest_.remove_prefix(1);
    return true;
  }

  bool read_list(OrderedJson& value, char end, int depth) {
    rest_.remove_prefix(1);
    value = OrderedJson::array();
    while (!take(end)) {
      OrderedJson item;
      if (!read(item, depth + 1)) return false;
      value.push_back(std::move(item));
      if (!take(',')) return take(end);
    }
    return true;
  }

  bool read_dict(OrderedJson& value, int depth) {
    rest_.remove_prefix(1);
    value = OrderedJson::object();
    while (!take('}')) {
      OrderedJson key, item;
      if (!read(key, depth + 1) || !key.is_string() || value.contains(key.get_ref<const std::string&>())) return false;
      if (!take(':') || !read(item, depth + 1)) return false;
      value[key.get<std::string>()] = std::move(item);
      if (!take(',')) return take('}');
    }
    return true;
  }

  bool read_text(std::string& text) {
    const char quote = rest_.front();
    rest_.remove_prefix(1);
    while (!rest_.empty()) {
      const char c = rest_.front();
      rest_.remove_prefix(1);
      if (c == quote) return true;
      if (c == '\\') {
        if (!read_escape(text)) return false;
      } else {
        text += c;
      }
    }
    return false;
  }

  bool read_escape(std::string& text) {
    if (rest_.empty()) return false;
    const char c = rest_.front();
    rest_.remove_prefix(1);
    constexpr std::string_view kNames = "ntr\\'\"", kValues = "\n\t\r\\'\"";
    if (const size_t at = kNames.find(c); at != kNames.npos) {
      text += kValues[at];
      return true;
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0 || rest_.size() < digits) return false;
    uint32_t code_point = 0;
    for (const char digit : rest_.substr(0, digits)) {
      const bool is_letter = (digit >= 'a' && digit <= 'f') || (digit >= 'A' && digit <= 'F');
      if (!is_letter && (digit < '0' || digit > '9')) return false;
      code_point = code_point * 16 + static_cast<uint32_t>(is_letter ? (digit | 0x20) - 'a' + 10 : digit - '0');
    }
    rest_.remove_prefix(digits);
    if (code_point > 0x10FFFF || (code_point >= 0xD800 && code_point < 0xE000)) return false;
    append_utf8(text, static_cast<char32_t>(code_point));
    return true;
  }

  bool read_word(OrderedJson& value) {
    const std::string_view word = rest_.substr(0, rest_.find_first_of(" \t\r\n,:]})"));
    rest_.remove_prefix(word.size());
    if (word == "None") {
      value = nullptr;
    } else if (word == "True" || word == "False") {
      value = word == "True";
    } else {
      if (word.empty() || word.find_first_not_of("0123456789+-.eE") != word.npos) return false;
      try {
        value = parse_exact_json(word, "");
      } catch (const Error&) {
        return false;
      }
    }
    return true;
  }

  std::string_view rest_;
};

}  // namespace

std::optional<OrderedJson> python_literal(std::string_view text) {
  LiteralReader reader(text);
  OrderedJson value;
  if (!reader.read(value) || !reader.at_end()) return std::nullopt;
  return value;
}

}  // namespace moraine
