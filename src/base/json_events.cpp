#include "base/json_events.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "base/error.h"

namespace moraine {

// What the parser calls.
class JsonEvents::Sax {
 public:
  Sax(JsonEvents& events, std::string_view text) : events_(events), text_(text), progress_{text.data(), text.data()} {}

  void parse() {
    // The parser takes a NUL byte for the end of the text.
    if (const size_t nul = text_.find('\0'); nul != text_.npos) fail(nul, "a NUL byte");
    const char* end = text_.data() + text_.size();
    try {
      Scalar::sax_parse(WatchedIterator{&progress_, end}, WatchedIterator{nullptr, end}, this);
    } catch (const TokenTooLong&) {
      fail(static_cast<size_t>(progress_.token - text_.data()),
           fmt::format("a value of more than {} MiB", kLongestToken >> 20));
    }
  }

  bool null() { return scalar(nullptr); }
  bool boolean(bool value) { return scalar(value); }
  bool number_integer(int64_t value) { return scalar(value); }
  bool number_unsigned(uint64_t value) { return scalar(value); }
  bool number_float(double value, const std::string&) { return scalar(value); }
  bool string(std::string& value) { return events_.on_text(value), true; }
  bool binary(Scalar::binary_t&) { return false; }  // not in JSON text
  bool key(std::string& name) { return events_.on_key(name), true; }
  bool start_object(size_t) { return begin(true); }
  bool start_array(size_t) { return begin(false); }
  bool end_object() { return end(); }
  bool end_array() { return end(); }

  template <typename Exception>
  bool parse_error(size_t byte, const std::string&, const Exception& exception) {
    // "[…] parse error at line 1, column 5: syntax error while parsing … - invalid literal; last read: '…'": what was
    // read last may be of any length.
    std::string detail(std::string_view(exception.what()).substr(0, 400));
    if (const size_t i = detail.find(": "); detail.find("parse error at ") != detail.npos && i != detail.npos)
      detail.erase(0, i + 2);
    for (const char* from : {"; last read: ", ": '"})
      if (const size_t i = detail.find(from); i != detail.npos) detail.erase(i);
    if (detail.size() > 200) detail.resize(200);
    fail(std::min(byte == 0 ? 0 : byte - 1, text_.size()), detail);
  }

 private:
  static constexpr size_t kDeepest = 256;
  static constexpr std::ptrdiff_t kLongestToken = 16 << 20;  // the parser holds several copies of one

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
      if (progress->at - progress->token > kLongestToken) throw TokenTooLong{};
      return *this;
    }
    bool at_end() const { return !progress || progress->at == end; }
    bool operator==(const WatchedIterator& other) const { return at_end() == other.at_end(); }
    bool operator!=(const WatchedIterator& other) const { return !(*this == other); }
  };

  bool scalar(const Scalar& value) { return events_.on_scalar(value), true; }
  bool begin(bool is_object) {
    if (depth_++ == kDeepest) {
      const auto read = static_cast<size_t>(progress_.at - text_.data());
      fail(read == 0 ? 0 : read - 1, fmt::format("nested deeper than {} levels", kDeepest));
    }
    return events_.on_begin(is_object), true;
  }
  bool end() {
    --depth_;
    return events_.on_end(), true;
  }
  [[noreturn]] void fail(size_t byte, const std::string& what) const {
    const std::string_view before = text_.substr(0, byte);
    const size_t line = 1 + static_cast<size_t>(std::count(before.begin(), before.end(), '\n'));
    const size_t line_start = before.rfind('\n');
    const size_t column = byte - (line_start == before.npos ? 0 : line_start + 1) + 1;
    throw input_error(events_.where(), fmt::format("malformed JSON at line {}, column {}: {}", line, column, what));
  }

  JsonEvents& events_;
  std::string_view text_;
  Progress progress_;
  size_t depth_ = 0;
};

void JsonEvents::read(std::string_view text, const std::string& where) {
  where_ = &where;
  Sax(*this, text).parse();
}

}  // namespace moraine
