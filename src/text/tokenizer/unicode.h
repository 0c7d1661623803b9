// UTF-8 and the character properties that the reference tokenizer library's regexes know.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "text/tokenizer/alignment.h"

namespace moraine {

// The code point at `at` of valid UTF-8; moves `at` behind it.
inline char32_t next_code_point(std::string_view text, size_t& at) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  char32_t lead = byte(at);
  if (lead < 0x80) return at += 1, lead;
  if (lead < 0xE0) return at += 2, (lead & 0x1F) << 6 | (byte(at - 1) & 0x3F);
  if (lead < 0xF0) return at += 3, (lead & 0x0F) << 12 | (byte(at - 2) & 0x3F) << 6 | (byte(at - 1) & 0x3F);
  at += 4;
  return (lead & 0x07) << 18 | (byte(at - 3) & 0x3F) << 12 | (byte(at - 2) & 0x3F) << 6 | (byte(at - 1) & 0x3F);
}

// Where the code point that ends at `end` begins. Valid UTF-8, end > 0.
inline size_t previous_code_point(std::string_view text, size_t end) {
  do --end;
  while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

void append_utf8(std::string& out, char32_t code_point);

bool is_valid_utf8(std::string_view text);
// Every maximal ill-formed subsequence becomes one U+FFFD (the Unicode Standard's and Rust's from_utf8_lossy's
// practice). `alignment` (may be null) tells which bytes each U+FFFD stands for.
std::string repair_utf8(std::string_view text, Alignment* alignment);

// Code points that Unicode 15 and 16 assigned. PCRE2 and utf8proc of common distributions know Unicode 14 or 15, the
// reference library's regex engine knows 16.
struct CodePointRange {
  char32_t first, last;
  char major, minor;  // general category, as in "Lu"
};
std::span<const CodePointRange> code_points_since_unicode_15();

// \s: the White_Space property.
bool is_white_space(char32_t code_point);
// Without the white space at both ends that Python's str.strip() takes away. Valid UTF-8.
std::string_view strip_white_space(std::string_view text);
// \w: letters, marks, numbers, connector punctuation, joiners and other alphabetic characters.
bool is_word_character(char32_t code_point);

}  // namespace moraine
