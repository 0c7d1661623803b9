// A compiled regex or literal text that cuts text into pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

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

}  // namespace moraine
