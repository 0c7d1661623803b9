// What tokenizer.json's normalizer does to text, aligned to the text it came from.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "text/tokenizer/alignment.h"
#include "text/tokenizer/json_field.h"
#include "text/tokenizer/split_pattern.h"

namespace moraine {

class Normalizer {
 public:
  // tokenizer.json's "normalizer", which may be null. Throws an input error on anything but NFC, Prepend, Replace and
  // Sequence.
  static Normalizer from_json(const JsonField& field);

  // One for each thread; normalize() fills it.
  struct Scratch {
    std::vector<std::string> texts;     // one for each step
    std::vector<Alignment> alignments;  // from a step's text to that of the step before
    MatchState match;

    bool changed_nothing() const;
    // The bytes of the text given to normalize() that the normalised bytes [begin, end) stand for.
    std::pair<size_t, size_t> to_source(size_t begin, size_t end) const;
  };

  // Returns `text` (valid UTF-8) or a text in `scratch`.
  std::string_view normalize(std::string_view text, Scratch& scratch) const;
  std::string normalized(std::string_view text) const;

 private:
  struct Nfc {};
  struct Prepend {
    std::string text;
  };
  struct Replace {
    SplitPattern pattern;
    std::string content;
  };

  Normalizer() = default;
  void add(const JsonField& field);

  std::vector<std::variant<Nfc, Prepend, Replace>> steps_;
};

}  // namespace moraine
