#include "text/tokenizer/unicode_normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/tokenizer/unicode.h"

namespace moraine {
namespace {

// No character from here on is changed by NFC or reordered (the last planes hold ideographs, tags and private use).
constexpr char32_t kTableEnd = 0x30000;

// Characters with a combining class or a composition that Unicode 10 to 14 added; the younger ones come from
// code_points_since_unicode_15().
constexpr std::pair<char32_t, char32_t> kYoungMarks[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0xA82C, 0xA82C},   {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930},
    {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x16FF0, 0x16FF1}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}};

// For each code point whether normalisation has to look at it: it decomposes for good, has a combining class, or may
// combine with what stands before it. Everything else is a boundary that no change crosses from the left.
class AttentionTable {
 public:
  AttentionTable() : flags_(kTableEnd, 0) {
    utf8proc_int32_t parts[32];
    for (char32_t c = 0x300; c < kTableEnd; ++c) {
      if (c >= 0xD800 && c < 0xE000) continue;
      if (utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class) flags_[c] = 1;
      if (c >= 0xAC00 && c < 0xD7A4) continue;  // Hangul syllables: their parts are named below
      utf8proc_ssize_t count = decompose(c, parts);
      if (count == 1 && static_cast<char32_t>(parts[0]) == c) continue;
      for (utf8proc_ssize_t i = 1; i < count; ++i) flags_[parts[i]] = 1;
      count = utf8proc_normalize_utf32(parts, count, kCompose);
      if (count != 1 || static_cast<char32_t>(parts[0]) != c) flags_[c] = 1;
    }
    for (char32_t c = 0x1161; c <= 0x1175; ++c) flags_[c] = 1;
    for (char32_t c = 0x11A8; c <= 0x11C2; ++c) flags_[c] = 1;
    // Parts of compositions below U+0300 have been missed above: the marks of Latin letters.
    for (char32_t c = 0xC0; c < 0x300; ++c) {
      utf8proc_ssize_t count = decompose(c, parts);
      for (utf8proc_ssize_t i = 1; i < count; ++i) flags_[parts[i]] = 1;
    }
    for (auto [first, last] : kYoungMarks) std::fill(&flags_[first], &flags_[last] + 1, 0);
    for (const CodePointRange& range : code_points_since_unicode_15()) {
      for (char32_t c = range.first; c <= range.last && c < kTableEnd; ++c) flags_[c] = 0;
    }
  }

  bool operator[](char32_t c) const { return c < kTableEnd && flags_[c]; }

  static constexpr utf8proc_option_t kCompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

  // The full canonical decomposition of `c`; returns its length.
  static utf8proc_ssize_t decompose(char32_t c, utf8proc_int32_t (&parts)[32]) {
    int boundary = 0;
    utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 32,
                                static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
    MORAINE_ASSERT(count >= 1 && count <= 32, "a canonical decomposition has 1 to 4 code points");
    return count;
  }

 private:
  std::vector<uint8_t> flags_;
};

const AttentionTable& attention_table() {
  static const AttentionTable table;
  return table;
}

// NFC of one stretch, appended to `out`. utf8proc's own ordering of marks takes quadratic time on long runs, so this
// sorts.
void normalize_stretch(std::string_view stretch, const AttentionTable& attention, std::string& out) {
  std::vector<utf8proc_int32_t> code_points;
  utf8proc_int32_t parts[32];
  for (size_t at = 0; at < stretch.size();) {
    utf8proc_ssize_t count = AttentionTable::decompose(next_code_point(stretch, at), parts);
    code_points.insert(code_points.end(), parts, parts + count);
  }
  // A young mark may stand first; it counts as class 0.
  auto combining_class = [&](utf8proc_int32_t c) {
    return attention[static_cast<char32_t>(c)] ? utf8proc_get_property(c)->combining_class : 0;
  };
  for (auto run = code_points.begin(); run != code_points.end();) {
    auto end = std::find_if(run, code_points.end(), [&](utf8proc_int32_t c) { return combining_class(c) == 0; });
    std::stable_sort(run, end, [&](auto a, auto b) { return combining_class(a) < combining_class(b); });
    run = end == code_points.end() ? end : end + 1;
  }
  utf8proc_ssize_t count = utf8proc_normalize_utf32(
      code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()), AttentionTable::kCompose);
  MORAINE_ASSERT(count >= 0, "utf8proc refuses only invalid code points");
  for (utf8proc_ssize_t i = 0; i < count; ++i) append_utf8(out, static_cast<char32_t>(code_points[i]));
}

// How many bytes of whole characters two different texts share at their begin and end; both keep a character of their
// own.
std::pair<size_t, size_t> common_ends(std::string_view a, std::string_view b) {
  auto within = [](std::string_view text, size_t at) {
    return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
  };
  size_t most = std::min(a.size(), b.size()) - 1, prefix = 0, suffix = 0;
  while (prefix < most && a[prefix] == b[prefix]) ++prefix;
  while (within(a, prefix) || within(b, prefix)) --prefix;
  while (suffix < most - prefix && a[a.size() - 1 - suffix] == b[b.size() - 1 - suffix]) ++suffix;
  while (within(a, a.size() - suffix) || within(b, b.size() - suffix)) --suffix;
  return {prefix, suffix};
}

// The first byte at or after `at` that may belong to a character from U+0300 on.
size_t skip_low(std::string_view text, size_t at) {
  while (at < text.size() && static_cast<unsigned char>(text[at]) < 0xCC) ++at;
  return at;
}

}  // namespace

std::string_view normalize_nfc(std::string_view text, std::string& storage, Alignment& alignment) {
  alignment.clear();
  size_t at = skip_low(text, 0);
  if (at == text.size()) return text;

  const AttentionTable& attention = attention_table();
  std::string normalized;
  size_t copied = 0;       // text up to here is in storage
  size_t stretch_end = 0;  // of the stretch before
  storage.clear();
  // A stretch is a boundary character and the characters after it that need attention.
  while ((at = skip_low(text, at)) < text.size()) {
    size_t begin = at;
    if (!attention[next_code_point(text, at)]) continue;
    if (begin > stretch_end) begin = previous_code_point(text, begin);
    while (at < text.size()) {
      size_t next = at;
      if (!attention[next_code_point(text, next)]) break;
      at = next;
    }
    stretch_end = at;
    normalized.clear();
    std::string_view stretch = text.substr(begin, at - begin);
    normalize_stretch(stretch, attention, normalized);
    if (normalized == stretch) continue;
    auto [prefix, suffix] = common_ends(stretch, normalized);
    storage.append(text, copied, begin + prefix - copied);
    alignment.add({storage.size(), storage.size() + normalized.size() - prefix - suffix, begin + prefix, at - suffix});
    storage.append(normalized, prefix, normalized.size() - prefix - suffix);
    copied = at - suffix;
  }
  if (alignment.empty()) return text;
  storage.append(text, copied);
  return storage;
}

}  // namespace moraine
