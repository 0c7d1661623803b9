#include "base/json_events.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "base/error.h"

namespace moraine {
namespace {

constexpr size_t kMaxDepth = 256;
constexpr std::ptrdiff_t kMaxToken = 16 << 20;  // the parser holds several copies of one

[[noreturn]] void fail(std::string_view text, size_t byte, const std::string& where, const std::string& what) {
  const std::string_view before = text.substr(0, byte);
  const size_t line = 1 + static_cast<size_t>(std::count(before.begin(), before.end(), '\n'));
  const size_t line_start = before.rfind('\n');
  const size_t column = byte - (line_start == before.npos ? 0 : line_start + 1) + 1;
  throw input_error(where, fmt::format("malformed JSON at line {}, column {}: {}", line, column, what));
}

// Where the parser is, and where what it is reading began.
struct Progress {
  const char* at;
  const char* token;
  bool in_text = false, escaped = false;

  void pass(char c) {
    if (in_text) {
      if (c == '"' && !escaped) in_text = false, token = at;
      escaped = c == '\\' && !escaped;
    } else if (c == '"') {
      in_text = true;
      token = at;
    } else if (c == ',' || c == ':' || c == '[' || c == '{') {
      token = at;
    }
    ++at;
  }
};

struct TokenTooLong {};

// Walks the text for the parser.
struct WatchedIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  Progress* progress;  // nullptr: the end
  const char* end;

  reference operator*() const { return *progress->at; }
  WatchedIterator& operator++() {
    progress->pass(*progress->at);
    if (progress->at - progress->token > kMaxToken) throw TokenTooLong{};
    return *this;
  }
  bool at_end() const { return !progress || progress->at == end; }
  bool operator==(const WatchedIterator& other) const { return at_end() == other.at_end(); }
  bool operator!=(const WatchedIterator& other) const { return !(*this == other); }
};

}  // namespace

void JsonEvents::read(std::string_view text, const std::string& where) {
  where_ = &where;
  // The parser takes a NUL byte for the end of the text.
  if (const size_t nul = text.find('\0'); nul != text.npos) fail(text, nul, where, "a NUL byte");
  Progress progress{text.data(), text.data()};
  const auto here = [&] {
    const size_t read = static_cast<size_t>(progress.at - text.data());
    return read == 0 ? 0 : read - 1;
  };

  struct Sax {
    JsonEvents& events;
    std::string_view text;
    const std::string& where;
    const decltype(here)& position;
    size_t depth = 0;

    bool scalar(const Scalar& value) {
      events.on_scalar(value);
      return true;
    }
    bool null() { return scalar(nullptr); }
    bool boolean(bool value) { return scalar(value); }
    bool number_integer(int64_t value) { return scalar(value); }
    bool number_unsigned(uint64_t value) { return scalar(value); }
    bool number_float(double value, const std::string&) { return scalar(value); }
    bool string(std::string& value) {
      events.on_text(value);
      return true;
    }
    bool binary(Scalar::binary_t&) { return false; }  // not in JSON text
    bool key(std::string& name) {
      events.on_key(name);
      return true;
    }
    bool begin(bool is_object) {
      if (depth++ == kMaxDepth) fail(text, position(), where, fmt::format("nested deeper than {} levels", kMaxDepth));
      events.on_begin(is_object);
      return true;
    }
    bool end() {
      --depth;
      events.on_end();
      return true;
    }
    bool start_object(size_t) { return begin(true); }
    bool start_array(size_t) { return begin(false); }
    bool end_object() { return end(); }
    bool end_array() { return end(); }
    template <typename Exception>
    bool parse_error(size_t byte, const std::string&, const Exception& exception) {
      // "[…] parse error at line 1, column 5: syntax error while parsing … - invalid literal; last read: '…'": what was read last may be
      // of any length.
      std::string detail(std::string_view(exception.what()).substr(0, 400));
      if (const size_t i = detail.find(": "); detail.find("parse error at ") != detail.npos && i != detail.npos) detail.erase(0, i + 2);
      for (const char* from : {"; last read: ", ": '"})
        if (const size_t i = detail.find(from); i != detail.npos) detail.erase(i);
      if (detail.size() > 200) detail.resize(200);
      fail(text, std::min(byte == 0 ? 0 : byte - 1, text.size()), where, detail);
    }
  };
  Sax sax{*this, text, where, here};
  const char* end = text.data() + text.size();
  try {
    Scalar::sax_parse(WatchedIterator{&progress, end}, WatchedIterator{nullptr, end}, &sax);
  } catch (const TokenTooLong&) {
    fail(text, static_cast<size_t>(progress.token - text.data()), where, fmt::format("a text or number of more than {} MiB", kMaxToken >> 20));
  }
}

}  // namespace moraine
