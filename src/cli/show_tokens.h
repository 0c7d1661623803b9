// Tokens for a reader: where they begin and end, and which of them are trained.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace moraine {

enum class TokenMarks {
  kColours,   // ANSI: trained tokens on green and blue from turn to turn, neighbours in two shades
  kBrackets,  // ⟦trained⟧ spans in plain text; tokens are not told apart
};

// Colours when stdout is a terminal that has them and NO_COLOR (https://no-color.org) is not set.
TokenMarks marks_for_stdout();

// `encoding` is that of `text`; `loss_mask` holds 0 or 1 a token, or nothing. Control characters of the text are
// escaped.
std::string show_tokens(std::string_view text, const Encoding& encoding, const std::vector<uint8_t>& loss_mask,
                        TokenMarks marks);

}  // namespace moraine
