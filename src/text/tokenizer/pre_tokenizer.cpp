#include "text/tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "text/tokenizer/at_place.h"

namespace moraine {
namespace {

// What ByteLevel splits by when use_regex is set: GPT-2's.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

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

}  // namespace

PreTokenizer PreTokenizer::from_json(const JsonField& field) {
  PreTokenizer out;
  if (!field.is_null()) out.add(field);
  if (!out.byte_level_) field.refuse("has no ByteLevel", "only byte-level BPE tokenizers are supported");
  return out;
}

void PreTokenizer::add(const JsonField& field) {
  const std::string& type = field["type"].string();
  if (type == "Sequence") {
    for (const JsonField& item : field["pretokenizers"].items()) add(item);
    return;
  }
  if (byte_level_) field.refuse(fmt::format("is a {} behind ByteLevel, which is not supported", type));
  if (type == "Split") {
    stages_.push_back(split_stage(field));
  } else if (type == "Digits") {
    Behavior behavior = field["individual_digits"].boolean() ? Behavior::kIsolated : Behavior::kContiguous;
    stages_.push_back({SplitPattern::regex("\\p{N}"), behavior, false});
  } else if (type == "ByteLevel") {
    byte_level_ = true;
    add_prefix_space_ = field["add_prefix_space"].boolean();
    if (field["use_regex"].boolean(true)) {
      byte_level_stage_ = Stage{SplitPattern::regex(kGpt2Pattern), Behavior::kIsolated, false};
    }
  } else {
    field["type"].refuse(fmt::format("\"{}\" is not supported", type),
                         "supported are Sequence, Split, Digits and ByteLevel");
  }
}

PreTokenizer::Stage PreTokenizer::split_stage(const JsonField& field) {
  constexpr std::pair<std::string_view, Behavior> kBehaviors[] = {
      {"Isolated", Behavior::kIsolated},
      {"Removed", Behavior::kRemoved},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous},
  };
  JsonField name = field["behavior"];
  auto behavior = std::find_if(std::begin(kBehaviors), std::end(kBehaviors),
                               [&](const auto& entry) { return entry.first == name.string(); });
  if (behavior == std::end(kBehaviors)) name.refuse(fmt::format("\"{}\" is not known", name.string()));

  JsonField pattern = field["pattern"];
  JsonField regex = pattern["Regex"], literal = pattern["String"];
  if (regex.is_null() == literal.is_null()) pattern.refuse("must hold Regex or String");
  SplitPattern compiled = at_place(field.file() + ": " + pattern.path(), [&] {
    return regex.is_null() ? SplitPattern::literal(literal.string()) : SplitPattern::regex(regex.string());
  });
  return {std::move(compiled), behavior->second, field["invert"].boolean()};
}

std::string_view PreTokenizer::split(std::string_view text, Scratch& scratch) const {
  scratch.alignment.clear();
  scratch.pieces.clear();
  if (!text.empty()) scratch.pieces.push_back({0, text.size()});
  for (const Stage& stage : stages_) run(stage, text, scratch);
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

}  // namespace moraine
