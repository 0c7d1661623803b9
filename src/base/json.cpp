#include "base/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <type_traits>
#include <unordered_set>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace moraine {
namespace {

constexpr size_t kMaxDepth = 256;

// Walks the text and tells how far the parser has read, which its SAX events do not.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  const char** furthest;

  reference operator*() const { return *at; }
  CountingIterator& operator++() {
    *furthest = ++at;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at == other.at; }
  bool operator!=(const CountingIterator& other) const { return at != other.at; }
};

enum class BigIntegers { kFloats, kDigits };  // what becomes of those beyond 64 bits

// A word that Python's json writes for a number that JSON has none for.
struct NotFinite {
  size_t begin;
  std::string_view word;
};

bool is_word_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
         c == '+' || c == '.';
}

// Those of `text` outside of strings, in order.
std::vector<NotFinite> find_not_finite(std::string_view text) {
  std::vector<NotFinite> found;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') {
      for (++i; i < text.size() && text[i] != '"'; ++i) {
        if (text[i] == '\\') ++i;
      }
      continue;
    }
    if (!is_word_character(text[i])) continue;
    const size_t begin = i;
    while (i + 1 < text.size() && is_word_character(text[i + 1])) ++i;
    for (std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
      if (text.substr(begin, i + 1 - begin) == word) found.push_back({begin, word});
    }
  }
  return found;
}

// `text` with numbers in their places, so that a parser reads it; everything else stays where it is.
std::string with_numbers_for(std::string_view text, const std::vector<NotFinite>& words) {
  std::string out(text);
  for (const NotFinite& found : words) out.replace(found.begin, found.word.size(), found.word.size(), '1');
  return out;
}

// Builds the document from the parser's events. nlohmann's own builder keeps the last of two equal keys and has no
// limit of depth. `words` are what stands for the numbers in `text` at their places: they become binary values of these
// words, which no reader takes for a number, so that only what uses one has to refuse it.
template <typename J>
class Builder {
 public:
  Builder(std::string_view text, const std::string& where, BigIntegers big_integers, std::vector<NotFinite> words)
      : text_(text), where_(where), big_integers_(big_integers), words_(std::move(words)), furthest_(text.data()) {}

  J build() {
    // The parser takes a NUL byte for the end of the text.
    if (size_t nul = text_.find('\0'); nul != text_.npos) fail(nul, "a NUL byte");
    CountingIterator begin{text_.data(), &furthest_}, end{text_.data() + text_.size(), &furthest_};
    J::sax_parse(begin, end, this);
    return std::move(root_);
  }

  bool null() { return add(J(nullptr)); }
  bool boolean(bool value) { return add(J(value)); }
  bool number_integer(int64_t value) { return add(J(value)); }
  bool number_unsigned(uint64_t value) {
    // The parser has read at most one byte behind the number.
    if (next_word_ < words_.size() && read_bytes() > words_[next_word_].begin) {
      const std::string_view word = words_[next_word_++].word;
      return add(J::binary({word.begin(), word.end()}));
    }
    return add(J(value));
  }
  bool number_float(double value, const std::string& written) {
    if (big_integers_ == BigIntegers::kFloats || written.find_first_of(".eE") != written.npos) return add(J(value));
    return add(J::binary({written.begin(), written.end()}));
  }
  bool string(std::string& value) { return add(J(std::move(value))); }
  bool binary(typename J::binary_t&) { return false; }  // not in JSON text

  bool start_object(size_t) { return open(J::object()); }
  bool start_array(size_t) { return open(J::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    Level& level = levels_.back();
    auto& object = level.node->template get_ref<typename J::object_t&>();
    if constexpr (std::is_same_v<J, OrderedJson>) {
      // ordered_map's own look-up is linear.
      if (!level.keys.insert(name).second) fail_twice(name);
      using Storage = std::vector<typename J::object_t::value_type>;
      Storage& storage = object;
      storage.emplace_back(std::move(name), J());
      level.slot = &storage.back().second;
    } else {
      auto [place, inserted] = object.try_emplace(name);
      if (!inserted) fail_twice(name);
      level.slot = &place->second;
    }
    return true;
  }

  template <typename Exception>
  bool parse_error(size_t position, const std::string&, const Exception& exception) {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error while parsing … - invalid
    // literal; last read: '…'": the last read text may be of any length and is left out.
    std::string detail = exception.what();
    if (size_t i = detail.find("] "); i != detail.npos) detail.erase(0, i + 2);
    if (detail.starts_with("parse error at ")) {
      if (size_t i = detail.find(": "); i != detail.npos) detail.erase(0, i + 2);
    }
    if (size_t i = detail.find("; last read: "); i != detail.npos) detail.erase(i);
    if (size_t i = detail.find(": '"); i != detail.npos) detail.erase(i);
    if (detail.size() > 200) detail.resize(200);
    fail(std::min(position == 0 ? 0 : position - 1, text_.size()), detail);
    return false;
  }

 private:
  struct Level {
    J* node;
    J* slot = nullptr;  // where the value of the last key goes
    std::unordered_set<std::string> keys;
  };

  J* place(J&& value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Level& level = levels_.back();
    if (level.node->is_array()) {
      level.node->push_back(std::move(value));
      return &level.node->back();
    }
    *level.slot = std::move(value);
    return level.slot;
  }
  bool add(J&& value) {
    place(std::move(value));
    return true;
  }
  bool open(J&& empty) {
    if (levels_.size() == kMaxDepth) fail_here(fmt::format("nested deeper than {} levels", kMaxDepth));
    levels_.push_back({place(std::move(empty)), nullptr, {}});
    return true;
  }
  bool close() {
    levels_.pop_back();
    return true;
  }

  [[noreturn]] void fail(size_t byte, const std::string& what) const {
    std::string_view before = text_.substr(0, byte);
    size_t line = 1 + static_cast<size_t>(std::count(before.begin(), before.end(), '\n'));
    size_t line_start = before.rfind('\n');
    size_t column = byte - (line_start == before.npos ? 0 : line_start + 1) + 1;
    throw input_error(where_, fmt::format("malformed JSON at line {}, column {}: {}", line, column, what));
  }
  size_t read_bytes() const { return static_cast<size_t>(furthest_ - text_.data()); }
  [[noreturn]] void fail_here(const std::string& what) const {
    const size_t read = read_bytes();
    fail(read == 0 ? 0 : read - 1, what);
  }
  [[noreturn]] void fail_twice(const std::string& key) const {
    fail_here(fmt::format("key {} is given twice", quote_text(key)));
  }
  std::string_view text_;
  const std::string& where_;
  BigIntegers big_integers_;
  std::vector<NotFinite> words_;
  size_t next_word_ = 0;
  const char* furthest_;
  J root_;
  std::vector<Level> levels_;
};

// Most text is JSON. What is not may hold words for numbers that are not finite, and is read again with numbers for
// them.
template <typename J>
J parse(std::string_view text, const std::string& where, BigIntegers big_integers) {
  try {
    return Builder<J>(text, where, big_integers, {}).build();
  } catch (const Error&) {
    std::vector<NotFinite> words = find_not_finite(text);
    if (words.empty()) throw;
    const std::string readable = with_numbers_for(text, words);
    return Builder<J>(readable, where, big_integers, std::move(words)).build();
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  return parse<Json>(text, where, BigIntegers::kFloats);
}

OrderedJson parse_ordered_json(std::string_view text, const std::string& where) {
  return parse<OrderedJson>(text, where, BigIntegers::kFloats);
}

OrderedJson parse_exact_json(std::string_view text, const std::string& where) {
  return parse<OrderedJson>(text, where, BigIntegers::kDigits);
}

std::optional<std::string> big_integer_digits(const OrderedJson& value) {
  if (!value.is_binary()) return std::nullopt;
  const auto& digits = value.get_binary();
  std::string text(digits.begin(), digits.end());
  if (text.find_first_not_of("-0123456789") != text.npos) return std::nullopt;  // NaN or Infinity
  return text;
}

Json read_json_file(const std::filesystem::path& path) { return parse_json(read_text_file(path), path.string()); }

}  // namespace moraine
