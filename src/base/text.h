// Small text helpers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moraine {

// The candidate with the smallest edit distance to `word`, or "" when none is near (distance > half of its length).
std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates);

// "a, b and c".
std::string join_words(const std::vector<std::string>& words);

}  // namespace moraine
