#include "cli/text_stream.h"

namespace moraine {

void TextStream::add(int64_t id) {
  pending_.push_back(id);
  const std::string text = tokenizer_.decode_skipping_special(pending_);
  if (text.ends_with("\xEF\xBF\xBD")) return;  // U+FFFD: the next token may complete the character
  write_(text);
  pending_.clear();
}

void TextStream::finish() {
  if (!pending_.empty()) write_(tokenizer_.decode_skipping_special(pending_));
  pending_.clear();
}

}  // namespace moraine
