// Cuts text into the words that byte-pair encoding works on.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer/alignment.h"
#include "text/tokenizer/json_field.h"
#include "text/tokenizer/split_pattern.h"

namespace moraine {

using Piece = std::pair<size_t, size_t>;  // bytes [first, second)

class PreTokenizer {
 public:
  // tokenizer.json's "pre_tokenizer". Throws an input error on anything but Split, Digits and, at the end, ByteLevel.
  static PreTokenizer from_json(const JsonField& field);

  // One for each thread; split() fills it.
  struct Scratch {
    std::vector<Piece> pieces;  // of the text that split() returned
    Alignment alignment;        // from that text to the text given to split()

    MatchState match;
    std::vector<Piece> next;
    std::vector<std::pair<Piece, bool>> matches;
    std::string prefixed;
  };

  // Returns `text`, or a copy in `scratch` where words without a leading space got one (add_prefix_space).
  // `text` is valid UTF-8. Pieces are in order, not empty, and may leave out text that a Split removes.
  std::string_view split(std::string_view text, Scratch& scratch) const;

 private:
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Stage {
    SplitPattern pattern;
    Behavior behavior;
    bool invert;
  };

  PreTokenizer() = default;
  void add(const JsonField& field);
  static Stage split_stage(const JsonField& field);
  static void run(const Stage& stage, std::string_view text, Scratch& scratch);
  static std::string_view add_prefix_spaces(std::string_view text, Scratch& scratch);

  std::vector<Stage> stages_;
  bool byte_level_ = false;
  bool add_prefix_space_ = false;
  std::optional<Stage> byte_level_stage_;  // ByteLevel's own regex, after the prefix spaces
};

}  // namespace moraine
