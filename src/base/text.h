// Small text helpers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moraine {

// The candidate with the smallest edit distance to `word` (two neighbours swapped are one edit), the first of equals,
// or "" when none is near: distance > half of the length of `word`.
std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates);

// "a, b and c".
std::string join_words(const std::vector<std::string>& words);

// Text from a foreign file as part of a line for a terminal: control characters (of ASCII, Latin-1 and of text
// direction) and broken UTF-8 are escaped (\n, \x1b), and what is longer than `longest` bytes is cut between characters
// and ends in "…".
std::string one_line(std::string_view text, size_t longest);

// 'text' for an error message: in single quotes, as one_line of about 200 bytes.
std::string quote_text(std::string_view text);

// Well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text);

}  // namespace moraine
