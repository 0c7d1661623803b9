#include "text/tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "text/tokenizer/unicode.h"

namespace moraine {
namespace {

// What ByteLevel splits by when use_regex is set: GPT-2's.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// ASCII's symbols count too.
constexpr std::string_view kPunctuation = R"([\p{P}$+<=>^`|~])";

}  // namespace

PreTokenizer PreTokenizer::from_json(const JsonField& field, bool byte_fallback) {
  PreTokenizer out;
  if (!field.is_null()) out.add(field, byte_fallback);
  if (!out.byte_level_ && !byte_fallback)
    field.refuse("has no ByteLevel", "of tokenizers without model.byte_fallback only byte-level BPE is supported");
  return out;
}

void PreTokenizer::add(const JsonField& field, bool byte_fallback) {
  const std::string& type = field["type"].string();
  if (type == "Sequence") {
    for (const JsonField& item : field["pretokenizers"].items()) add(item, byte_fallback);
    return;
  }
  if (byte_level_) field.refuse(fmt::format("is a {} behind ByteLevel, which is not supported", type));
  if (type == "Split") {
    stages_.push_back(
        {read_split_pattern(field["pattern"]), read_behavior(field["behavior"]), field["invert"].boolean()});
  } else if (type == "Digits") {
    Behavior behavior = field["individual_digits"].boolean() ? Behavior::kIsolated : Behavior::kContiguous;
    stages_.push_back({SplitPattern::regex("\\p{N}"), behavior, false});
  } else if (type == "Punctuation") {
    JsonField behavior = field["behavior"];
    stages_.push_back(
        {SplitPattern::regex(kPunctuation), behavior.is_null() ? Behavior::kIsolated : read_behavior(behavior), false});
  } else if (type == "Metaspace" && byte_fallback) {
    add_metaspace(field);
  } else if (type == "ByteLevel" && !byte_fallback) {
    byte_level_ = true;
    add_prefix_space_ = field["add_prefix_space"].boolean();
    if (field["use_regex"].boolean(true)) {
      byte_level_stage_ = Stage{SplitPattern::regex(kGpt2Pattern), Behavior::kIsolated, false};
    }
  } else {
    field["type"].refuse(
        fmt::format("\"{}\" is not supported", type),
        fmt::format("supported with {}BPE are Sequence, Split, Digits, Punctuation and {}",
                    byte_fallback ? "byte_fallback " : "byte-level ", byte_fallback ? "Metaspace" : "ByteLevel"));
  }
}

PreTokenizer::Behavior PreTokenizer::read_behavior(const JsonField& name) {
  constexpr std::pair<std::string_view, Behavior> kBehaviors[] = {
      {"Isolated", Behavior::kIsolated},
      {"Removed", Behavior::kRemoved},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous},
  };
  auto behavior = std::find_if(std::begin(kBehaviors), std::end(kBehaviors),
                               [&](const auto& entry) { return entry.first == name.string(); });
  if (behavior == std::end(kBehaviors)) name.refuse(fmt::format("\"{}\" is not known", name.string()));

  return behavior->second;
}

void PreTokenizer::add_metaspace(const JsonField& field) {
  if (metaspace_) field.refuse("is a second Metaspace, which is not supported");
  Metaspace metaspace;
  metaspace.replacement = field["replacement"].string();
  size_t end = 0;
  if (!metaspace.replacement.empty()) next_code_point(metaspace.replacement, end);
  if (end == 0 || end != metaspace.replacement.size()) field["replacement"].refuse("must be one character");
  metaspace.before_stage = stages_.size();

  JsonField scheme = field["prepend_scheme"], add_prefix_space = field["add_prefix_space"];
  const std::string name = scheme.is_null() ? "always" : scheme.string();
  if (name == "always") {
    metaspace.prepend = Prepend::kAlways;
  } else if (name == "first") {
    metaspace.prepend = Prepend::kFirst;
  } else if (name != "never") {
    scheme.refuse(fmt::format("\"{}\" is not known", name), "it is always, first or never");
  }
  // The older name; false beside a scheme is an error in the reference too.
  if (!add_prefix_space.boolean(true)) {
    if (name != "never") add_prefix_space.refuse("is false, but prepend_scheme is not never");
    metaspace.prepend = Prepend::kNever;
  }
  if (field["split"].boolean(true)) {
    stages_.push_back({SplitPattern::literal(metaspace.replacement), Behavior::kMergedWithNext, false});
  }
  metaspace_ = std::move(metaspace);
}

std::string_view PreTokenizer::split(std::string_view text, bool at_start, Scratch& scratch) const {
  scratch.alignment.clear();
  scratch.pieces.clear();
  if (!text.empty()) scratch.pieces.push_back({0, text.size()});
  for (size_t i = 0; i <= stages_.size(); ++i) {
    if (metaspace_ && metaspace_->before_stage == i) text = rewrite_spaces(text, at_start, scratch);
    if (i < stages_.size()) run(stages_[i], text, scratch);
  }
  if (add_prefix_space_) text = add_prefix_spaces(text, scratch);
  if (byte_level_stage_) run(*byte_level_stage_, text, scratch);
  return text;
}

void PreTokenizer::run(const Stage& stage, std::string_view text, Scratch& scratch) {
  std::vector<Piece>& out = scratch.next;
  out.clear();
  auto put = [&](size_t begin, size_t end) {
    if (begin < end) out.push_back({begin, end});
  };
  auto& matches = scratch.matches;
  for (auto [piece_begin, piece_end] : scratch.pieces) {
    std::string_view piece = text.substr(piece_begin, piece_end - piece_begin);
    size_t done = 0;
    if (stage.behavior == Behavior::kIsolated) {
      for_each_match(stage.pattern, piece, scratch.match, [&, base = piece_begin](size_t begin, size_t end) {
        put(base + done, base + begin);
        put(base + begin, base + end);
        done = end;
      });
      put(piece_begin + done, piece_end);
      continue;
    }
    // The whole piece as stretches that are a delimiter or not.
    matches.clear();
    for_each_match(stage.pattern, piece, scratch.match, [&, base = piece_begin](size_t begin, size_t end) {
      if (done != begin) matches.push_back({{base + done, base + begin}, stage.invert});
      matches.push_back({{base + begin, base + end}, !stage.invert});
      done = end;
    });
    if (done != piece.size()) matches.push_back({{piece_begin + done, piece_end}, stage.invert});

    // Below, `previous` starts as "not a delimiter", as in the reference, and joins only stretches of this piece.
    bool previous = false;
    size_t first = out.size();
    if (stage.behavior == Behavior::kMergedWithNext) {
      for (auto it = matches.rbegin(); it != matches.rend(); ++it) {
        auto [stretch, is_delimiter] = *it;
        if (is_delimiter && !previous && out.size() > first) {
          out.back().first = stretch.first;
        } else {
          out.push_back(stretch);
        }
        previous = is_delimiter;
      }
      std::reverse(out.begin() + static_cast<ptrdiff_t>(first), out.end());
    } else {
      for (auto [stretch, is_delimiter] : matches) {
        bool join = stage.behavior == Behavior::kContiguous ? is_delimiter == previous : is_delimiter && !previous;
        if (stage.behavior == Behavior::kRemoved) {
          if (!is_delimiter) out.push_back(stretch);
        } else if (join && out.size() > first) {
          out.back().second = stretch.second;
        } else {
          out.push_back(stretch);
        }
        previous = is_delimiter;
      }
    }
    auto is_empty = [](const Piece& p) { return p.first == p.second; };
    out.erase(std::remove_if(out.begin() + static_cast<ptrdiff_t>(first), out.end(), is_empty), out.end());
  }
  scratch.pieces.swap(scratch.next);
}

std::string_view PreTokenizer::add_prefix_spaces(std::string_view text, Scratch& scratch) {
  scratch.prefixed.clear();
  size_t copied = 0;
  for (Piece& piece : scratch.pieces) {
    // Text that a Split removed stays, outside all pieces.
    scratch.prefixed.append(text, copied, piece.first - copied);
    size_t begin = scratch.prefixed.size();
    if (text[piece.first] != ' ') {
      scratch.alignment.add({begin, begin + 1, piece.first, piece.first});
      scratch.prefixed += ' ';
    }
    scratch.prefixed.append(text, piece.first, piece.second - piece.first);
    copied = piece.second;
    piece = {begin, scratch.prefixed.size()};
  }
  return scratch.prefixed;
}

std::string_view PreTokenizer::rewrite_spaces(std::string_view text, bool at_start, Scratch& scratch) const {
  const std::string& replacement = metaspace_->replacement;
  std::string& out = scratch.prefixed;
  out.clear();
  size_t copied = 0;
  for (Piece& piece : scratch.pieces) {
    out.append(text, copied, piece.first - copied);
    const size_t begin = out.size();
    size_t at = piece.first;
    const bool has_one = text[at] == ' ' || text.substr(at).starts_with(replacement);
    const bool prepends = metaspace_->prepend == Prepend::kAlways ||
                          (metaspace_->prepend == Prepend::kFirst && at_start && piece.first == 0);
    if (prepends && !has_one) {
      // The new character and the first one both stand for the first one.
      size_t next = at;
      next_code_point(text, next);
      out += replacement;
      out.append(text, at, next - at);
      scratch.alignment.add({begin, out.size(), at, next});
      at = next;
    }
    for (; at < piece.second; ++at) {
      if (text[at] != ' ') {
        out += text[at];
        continue;
      }
      scratch.alignment.add({out.size(), out.size() + replacement.size(), at, at + 1});
      out += replacement;
    }
    copied = piece.second;
    piece = {begin, out.size()};
  }
  return out;
}

}  // namespace moraine
