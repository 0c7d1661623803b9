#include "text/jinja/lexer.h"

#include <fmt/format.h>

#include <cstdlib>
#include <limits>

#include "text/jinja/python_text.h"
#include "text/tokenizer/unicode.h"

namespace moraine::jinja {
namespace {

constexpr std::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                           "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};

std::string with_plain_newlines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
      continue;
    }
    text += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool begins_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<unsigned char>(c) >= 0x80;
}
bool continues_name(char c) { return begins_name(c) || is_digit(c); }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(with_plain_newlines(source)) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) {
      const size_t tag = next_tag(at_);
      if (tag == text_.npos) {
        add_text(at_, text_.size());
        at_ = text_.size();
        break;
      }
      read_tag(tag);
    }
    add(TokenKind::kEnd, "", text_.size());
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& what, size_t at) { throw Failure(what, place_of(at)); }

  // Places are asked for in ascending order, save in errors.
  Place place_of(size_t at) {
    if (at < counted_) counted_ = 0, line_ = 1, column_ = 1;
    for (; counted_ < at && counted_ < text_.size(); ++counted_) {
      if (text_[counted_] == '\n') {
        ++line_;
        column_ = 1;
      } else if ((static_cast<unsigned char>(text_[counted_]) & 0xC0) != 0x80) {
        ++column_;
      }
    }
    return {line_, column_};
  }

  void add(TokenKind kind, std::string text, size_t at) {
    Token token;
    token.kind = kind;
    token.text = std::move(text);
    token.place = place_of(at);
    tokens_.push_back(std::move(token));
  }

  size_t next_tag(size_t from) const {
    for (size_t i = text_.find('{', from); i != text_.npos && i + 1 < text_.size(); i = text_.find('{', i + 1)) {
      if (text_[i + 1] == '{' || text_[i + 1] == '%' || text_[i + 1] == '#') return i;
    }
    return text_.npos;
  }

  bool starts(std::string_view word, size_t at) const { return std::string_view(text_).substr(at).starts_with(word); }

  size_t skip_space(size_t at) const {
    while (at < text_.size()) {
      size_t next = at;
      if (!is_python_space(next_code_point(text_, next))) break;
      at = next;
    }
    return at;
  }

  void add_text(size_t begin, size_t end) {
    if (end > begin) add(TokenKind::kText, text_.substr(begin, end - begin), begin);
  }

  // Text before a tag, less what the tag strips of it. `strips_line`: a block or a comment.
  void add_text_before(size_t begin, size_t tag, char sign, bool strips_line) {
    std::string_view data = std::string_view(text_).substr(begin, tag - begin);
    if (sign == '-') {
      data = strip_right(data);
    } else if (sign != '+' && strips_line) {
      const size_t newline = data.rfind('\n');
      const size_t line = newline == data.npos ? 0 : newline + 1;
      if ((line > 0 || line_starts_) && strip_right(data.substr(line)).empty()) data = data.substr(0, line);
    }
    add_text(begin, begin + data.size());
  }

  static char sign_at(std::string_view text, size_t at) {
    return at < text.size() && (text[at] == '-' || text[at] == '+') ? text[at] : '\0';
  }

  void end_tag(size_t begin, size_t end) {
    line_starts_ = end > begin && text_[end - 1] == '\n';
    at_ = end;
  }

  // The end of a block or comment that is `close` at `at`: trim_blocks takes one newline, "-" all white space.
  size_t after_close(size_t at, char sign, size_t width) const {
    size_t end = at + width;
    if (sign == '-') return skip_space(end);
    if (sign != '+' && end < text_.size() && text_[end] == '\n') ++end;
    return end;
  }

  void read_tag(size_t tag) {
    const char kind = text_[tag + 1];
    const char sign = sign_at(text_, tag + 2);
    const bool is_variable = kind == '{';
    // "{{+" is no sign of a variable tag: the plus is an operator.
    const size_t inside = tag + 2 + (sign != '\0' && !(is_variable && sign == '+') ? 1 : 0);
    add_text_before(at_, tag, is_variable && sign == '+' ? '\0' : sign, !is_variable);
    if (kind == '#') return read_comment(tag, inside);
    if (kind == '%' && read_raw(tag, inside)) return;
    add(is_variable ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, "", tag);
    read_inside(tag, inside, is_variable);
  }

  void read_comment(size_t tag, size_t inside) {
    const size_t close = text_.find("#}", inside);
    if (close == text_.npos) fail("a comment has no end '#}'", tag);
    const char sign = close > inside ? sign_at(text_, close - 1) : '\0';
    end_tag(close, after_close(close, sign, 2));
  }

  bool read_raw(size_t tag, size_t inside) {
    size_t at = skip_space(inside);
    if (!starts("raw", at)) return false;
    at = skip_space(at + 3);
    size_t begin = 0;
    if (starts("-%}", at)) {
      begin = skip_space(at + 3);
    } else if (starts("%}", at)) {
      begin = at + 2;
    } else {
      return false;
    }
    line_starts_ = text_[begin - 1] == '\n';
    for (size_t end = text_.find("{%", begin); end != text_.npos; end = text_.find("{%", end + 1)) {
      const char sign = sign_at(text_, end + 2);
      size_t close = skip_space(end + 2 + (sign != '\0' ? 1 : 0));
      if (!starts("endraw", close)) continue;
      close = skip_space(close + 6);
      const char close_sign = sign_at(text_, close);
      if (close_sign != '\0') ++close;
      if (!starts("%}", close)) continue;
      add_text_before(begin, end, sign, true);
      end_tag(close, after_close(close, close_sign, 2));
      return true;
    }
    fail("a raw block has no end", tag);
  }

  void read_inside(size_t tag, size_t at, bool is_variable) {
    const std::string_view close = is_variable ? "}}" : "%}";
    std::string open;  // brackets that wait for their ends
    while (true) {
      at = skip_space(at);
      if (at >= text_.size()) fail(fmt::format("a tag has no end '{}'", close), tag);
      if (open.empty()) {
        const char sign = sign_at(text_, at);
        const bool has_sign = sign == '-' || (sign == '+' && !is_variable);
        const size_t end = at + (has_sign ? 1 : 0);
        if (starts(close, end)) {
          add(is_variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, "", at);
          const size_t next = is_variable ? (sign == '-' ? skip_space(end + 2) : end + 2) : after_close(end, sign, 2);
          return end_tag(end, next);
        }
      }
      at = read_token(at, open);
    }
  }

  size_t read_token(size_t at, std::string& open) {
    const char c = text_[at];
    if (is_digit(c)) return read_number(at);
    if (begins_name(c)) {
      size_t end = at;
      while (end < text_.size() && continues_name(text_[end])) ++end;
      add(TokenKind::kName, text_.substr(at, end - at), at);
      return end;
    }
    if (c == '"' || c == '\'') return read_string(at);
    for (std::string_view op : kOperators) {
      if (!starts(op, at)) continue;
      if (op == "(" || op == "[" || op == "{") open += op == "(" ? ')' : op == "[" ? ']' : '}';
      if (op == ")" || op == "]" || op == "}") {
        if (open.empty() || open.back() != op[0]) fail(fmt::format("unexpected '{}'", op), at);
        open.pop_back();
      }
      add(TokenKind::kOperator, std::string(op), at);
      return at + op.size();
    }
    fail(fmt::format("unexpected character '{}'", c), at);
  }

  size_t digits_end(size_t at, bool (*is_one)(char)) const {
    while (at < text_.size() &&
           (is_one(text_[at]) || (text_[at] == '_' && at + 1 < text_.size() && is_one(text_[at + 1]))))
      ++at;
    return at;
  }

  size_t read_number(size_t at) {
    const auto is_hex = [](char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; };
    if (text_[at] == '0' && at + 2 < text_.size() &&
        std::string_view("xXoObB").find(text_[at + 1]) != std::string::npos) {
      const size_t end = digits_end(at + 2, is_hex);
      const int base = (text_[at + 1] | 32) == 'x' ? 16 : (text_[at + 1] | 32) == 'o' ? 8 : 2;
      return add_integer(at, end, at + 2, base);
    }
    size_t end = digits_end(at, is_digit);
    bool is_float = false;
    if (end + 1 < text_.size() && text_[end] == '.' && is_digit(text_[end + 1]) && (at == 0 || text_[at - 1] != '.')) {
      is_float = true;
      end = digits_end(end + 1, is_digit);
    }
    if (end < text_.size() && (text_[end] | 32) == 'e') {
      size_t exponent = end + 1;
      if (exponent < text_.size() && (text_[exponent] == '+' || text_[exponent] == '-')) ++exponent;
      if (exponent < text_.size() && is_digit(text_[exponent])) {
        is_float = true;
        end = digits_end(exponent, is_digit);
      }
    }
    if (!is_float) return add_integer(at, end, at, 10);
    const std::string digits = without_underscores(at, end);
    add(TokenKind::kFloat, digits, at);
    tokens_.back().number = std::strtod(digits.c_str(), nullptr);
    return end;
  }

  std::string without_underscores(size_t begin, size_t end) const {
    std::string digits;
    for (size_t i = begin; i < end; ++i) {
      if (text_[i] != '_') digits += text_[i];
    }
    return digits;
  }

  size_t add_integer(size_t at, size_t end, size_t digits_begin, int base) {
    const std::string digits = without_underscores(digits_begin, end);
    char* last = nullptr;
    errno = 0;
    const int64_t value = std::strtoll(digits.c_str(), &last, base);
    if (digits.empty() || *last != '\0') fail("a malformed number", at);
    const bool is_big = errno == ERANGE;
    if (is_big && (base != 10 || digits.size() > 4300)) fail("too large an integer", at);
    add(TokenKind::kInteger, digits, at);
    tokens_.back().integer = value;
    tokens_.back().is_big = is_big;
    return end;
  }

  char32_t read_code(size_t at, size_t count, int base) {
    char32_t code = 0;
    for (size_t i = 0; i < count; ++i) {
      const char c = at + i < text_.size() ? text_[at + i] : '\0';
      const int digit = is_digit(c) ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 99;
      if (digit >= base) fail("a malformed escape in a string", at);
      code = code * static_cast<char32_t>(base) + static_cast<char32_t>(digit);
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) fail("an escape that is no character", at);
    return code;
  }

  size_t read_string(size_t begin) {
    const char quote = text_[begin];
    std::string value;
    size_t at = begin + 1;
    while (true) {
      if (at >= text_.size()) fail("a string has no end", begin);
      const char c = text_[at++];
      if (c == quote) break;
      if (c != '\\') {
        value += c;
        continue;
      }
      if (at >= text_.size()) fail("a string has no end", begin);
      at = read_escape(at, value);
    }
    add(TokenKind::kString, std::move(value), begin);
    return at;
  }

  // Python's "unicode-escape".
  size_t read_escape(size_t at, std::string& value) {
    constexpr std::string_view kLetters = "abfnrtv\\'\"", kMeans = "\a\b\f\n\r\t\v\\'\"";
    const char c = text_[at++];
    if (const size_t letter = kLetters.find(c); letter != kLetters.npos) {
      value += kMeans[letter];
    } else if (c == '\n') {  // the line goes on
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      append_utf8(value, read_code(at, count, 16));
      at += count;
    } else if (c >= '0' && c <= '7') {
      size_t end = at;
      while (end < at + 2 && end < text_.size() && text_[end] >= '0' && text_[end] <= '7') ++end;
      append_utf8(value, read_code(at - 1, end - at + 1, 8));
      at = end;
    } else if (c == 'N') {
      fail("escapes by a character's name are not supported", at - 1);
    } else {
      value += '\\';
      value += c;
    }
    return at;
  }

  const std::string text_;
  size_t at_ = 0;
  bool line_starts_ = true;  // the text behind the last tag begins a line
  size_t counted_ = 0;
  int line_ = 1, column_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokens_of(std::string_view source) { return Lexer(source).run(); }

}  // namespace moraine::jinja
