#include "text/tokenizer/normalizer.h"

#include <algorithm>

#include "text/tokenizer/unicode.h"
#include "text/tokenizer/unicode_normalizer.h"

namespace moraine {
namespace {

// The new text and the first character both stand for the first character, as in the reference.
std::string_view prepend_text(const std::string& prefix, std::string_view text, std::string& out,
                              Alignment& alignment) {
  if (text.empty() || prefix.empty()) return text;
  size_t first = 0;
  next_code_point(text, first);
  out = prefix;
  out += text;
  alignment.add({0, prefix.size() + first, 0, first});
  return out;
}

std::string_view replace_matches(const SplitPattern& pattern, const std::string& content, std::string_view text,
                                 MatchState& match, std::string& out, Alignment& alignment) {
  out.clear();
  size_t done = 0;
  for_each_match(pattern, text, match, [&](size_t begin, size_t end) {
    out.append(text, done, begin - done);
    alignment.add({out.size(), out.size() + content.size(), begin, end});
    out += content;
    done = end;
  });
  if (alignment.empty()) return text;
  out.append(text, done);
  return out;
}

}  // namespace

Normalizer Normalizer::from_json(const JsonField& field) {
  Normalizer out;
  if (!field.is_null()) out.add(field);
  return out;
}

void Normalizer::add(const JsonField& field) {
  const std::string& type = field["type"].string();
  if (type == "NFC") {
    steps_.emplace_back(Nfc{});
  } else if (type == "Prepend") {
    steps_.emplace_back(Prepend{field["prepend"].string()});
  } else if (type == "Replace") {
    const std::string& content = field["content"].string();
    // Removed text would belong to no token.
    if (content.empty()) field["content"].refuse("is empty, which is not supported");
    JsonField literal = field["pattern"]["String"];
    if (!literal.is_null() && literal.string().empty()) literal.refuse("is empty, which is not supported");
    steps_.emplace_back(Replace{read_split_pattern(field["pattern"]), content});
  } else if (type == "Sequence") {
    for (const JsonField& item : field["normalizers"].items()) add(item);
  } else {
    field["type"].refuse(fmt::format("\"{}\" is not supported", type),
                         "supported are NFC, Prepend, Replace, Sequence and none");
  }
}

std::string_view Normalizer::normalize(std::string_view text, Scratch& scratch) const {
  scratch.texts.resize(steps_.size());
  scratch.alignments.resize(steps_.size());
  for (size_t i = 0; i < steps_.size(); ++i) {
    std::string& out = scratch.texts[i];
    Alignment& alignment = scratch.alignments[i];
    alignment.clear();
    if (const auto* prefix = std::get_if<Prepend>(&steps_[i])) {
      text = prepend_text(prefix->text, text, out, alignment);
    } else if (const auto* replace = std::get_if<Replace>(&steps_[i])) {
      text = replace_matches(replace->pattern, replace->content, text, scratch.match, out, alignment);
    } else {
      text = normalize_nfc(text, out, alignment);
    }
  }
  return text;
}

std::string Normalizer::normalized(std::string_view text) const {
  Scratch scratch;
  return std::string(normalize(text, scratch));
}

bool Normalizer::Scratch::changed_nothing() const {
  return std::all_of(alignments.begin(), alignments.end(), [](const Alignment& step) { return step.empty(); });
}

std::pair<size_t, size_t> Normalizer::Scratch::to_source(size_t begin, size_t end) const {
  std::pair<size_t, size_t> range{begin, end};
  for (auto step = alignments.rbegin(); step != alignments.rend(); ++step)
    range = step->to_source(range.first, range.second);
  return range;
}

}  // namespace moraine
