// A compiled regex or literal text that cuts text into pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "text/tokenizer/json_field.h"

namespace moraine {

// What matching needs beside the pattern. One for each thread that matches.
class MatchState {
 public:
  MatchState();
  ~MatchState();
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;

 private:
  friend class SplitPattern;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class SplitPattern {
 public:
  // An Oniguruma regex. Throws an input error without a place (at_place.h) when it is malformed or not supported.
  static SplitPattern regex(std::string_view pattern);
  static SplitPattern literal(std::string_view text);
  SplitPattern(SplitPattern&&) noexcept;
  SplitPattern& operator=(SplitPattern&&) noexcept;
  ~SplitPattern();

  // The first match at or after `from` as [begin, end) in `text` (valid UTF-8). Look-arounds see the whole text.
  // Throws a run error when the regex engine gives up.
  bool find(std::string_view text, size_t from, MatchState& state, std::pair<size_t, size_t>* match) const;

 private:
  struct Impl;
  explicit SplitPattern(std::unique_ptr<Impl> impl);
  static SplitPattern compile(const std::string& pattern, uint32_t options, std::string_view shown);
  std::unique_ptr<Impl> impl_;
};

// Calls visit(begin, end) for every match in `text`, as the reference's iterator does: an empty match right behind the
// match before it is passed over.
template <typename Visit>
void for_each_match(const SplitPattern& pattern, std::string_view text, MatchState& state, Visit visit) {
  std::pair<size_t, size_t> match;
  size_t from = 0, last_end = std::string_view::npos;
  while (from <= text.size() && pattern.find(text, from, state, &match)) {
    if (match.first == match.second && match.second == last_end) {
      do ++from;
      while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80);
      continue;
    }
    visit(match.first, match.second);
    from = last_end = match.second;
  }
}

// {"Regex": …} or {"String": …} of tokenizer.json. Throws an input error that names the field.
SplitPattern read_split_pattern(const JsonField& field);

}  // namespace moraine
