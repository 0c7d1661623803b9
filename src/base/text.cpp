#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace moraine {
namespace {

// Edits of one letter, two neighbours swapped counting as one edit.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before_last(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
    before_last.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

}  // namespace

std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates) {
  std::string nearest;
  size_t least = word.size() / 2 + 1;
  for (const std::string& candidate : candidates) {
    size_t longer = std::max(word.size(), candidate.size()), shorter = std::min(word.size(), candidate.size());
    if (longer - shorter >= least) continue;  // the distance is no smaller than the difference of lengths
    size_t distance = edit_distance(word, candidate);
    if (distance < least) least = distance, nearest = candidate;
  }
  return nearest;
}

std::string join_words(const std::vector<std::string>& words) {
  std::string joined;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) joined += i + 1 == words.size() ? " and " : ", ";
    joined += words[i];
  }
  return joined;
}

std::string quote_text(std::string_view text) {
  constexpr size_t kLongest = 200;
  const bool utf8 = is_utf8(text);
  std::string shown = "'";
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    // Cut between characters: 10xxxxxx continues one.
    if (shown.size() > kLongest && (byte & 0xC0) != 0x80) return shown + "…'";
    if (c == '\n') {
      shown += "\\n";
    } else if (byte < 0x20 || byte == 0x7F || (byte >= 0x80 && !utf8)) {
      shown += fmt::format("\\x{:02x}", byte);
    } else {
      shown += c;
    }
  }
  return shown + "'";
}

bool is_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    auto byte = [&](size_t at) { return static_cast<unsigned char>(text[at]); };
    unsigned char lead = byte(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    size_t more = lead >= 0xC2 && lead < 0xE0   ? 1
                  : lead >= 0xE0 && lead < 0xF0 ? 2
                  : lead >= 0xF0 && lead < 0xF5 ? 3
                                                : 0;
    if (more == 0 || text.size() - i <= more) return false;
    for (size_t k = 1; k <= more; ++k) {
      if ((byte(i + k) & 0xC0) != 0x80) return false;
    }
    // Overlong forms, surrogates and what lies above U+10FFFF show in the second byte.
    unsigned char second = byte(i + 1);
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) || (lead == 0xF0 && second < 0x90) ||
        (lead == 0xF4 && second > 0x8F)) {
      return false;
    }
    i += more + 1;
  }
  return true;
}

}  // namespace moraine
