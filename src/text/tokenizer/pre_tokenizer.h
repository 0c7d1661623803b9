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
  // tokenizer.json's "pre_tokenizer". Throws an input error on anything but Split, Digits, Punctuation and what belongs
  // to the model: ByteLevel at the end, or with byte_fallback one Metaspace or none.
  static PreTokenizer from_json(const JsonField& field, bool byte_fallback);

  // One for each thread; split() fills it.
  struct Scratch {
    std::vector<Piece> pieces;  // of the text that split() returned
    Alignment alignment;        // from that text to the text given to split()

    MatchState match;
    std::vector<Piece> next;
    std::vector<std::pair<Piece, bool>> matches;
    std::string prefixed;
  };

  // Returns `text`, or a copy in `scratch` where words without a leading space got one (add_prefix_space) or where
  // spaces became Metaspace's character. `at_start`: nothing of the whole text is before `text`.
  // `text` is valid UTF-8. Pieces are in order, not empty, and may leave out text that a Split removes.
  std::string_view split(std::string_view text, bool at_start, Scratch& scratch) const;

 private:
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Stage {
    SplitPattern pattern;
    Behavior behavior;
    bool invert;
  };

  enum class Prepend { kNever, kFirst, kAlways };
  struct Metaspace {
    std::string replacement;  // of spaces
    Prepend prepend = Prepend::kNever;
    size_t before_stage = 0;
  };

  PreTokenizer() = default;
  void add(const JsonField& field, bool byte_fallback);
  void add_metaspace(const JsonField& field);
  static Behavior read_behavior(const JsonField& name);
  static void run(const Stage& stage, std::string_view text, Scratch& scratch);
  static std::string_view add_prefix_spaces(std::string_view text, Scratch& scratch);
  std::string_view rewrite_spaces(std::string_view text, bool at_start, Scratch& scratch) const;

  std::vector<Stage> stages_;
  std::optional<Metaspace> metaspace_;
  bool byte_level_ = false;
  bool add_prefix_space_ = false;
  std::optional<Stage> byte_level_stage_;  // ByteLevel's own regex, after the prefix spaces
};

}  // namespace moraine
