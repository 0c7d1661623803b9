// Tokens to text while they are made: whole characters only.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace moraine {

class TextStream {
 public:
  // `write` is called with text that ends at the end of a character; special tokens are left out.
  TextStream(const Tokenizer& tokenizer, std::function<void(std::string_view)> write)
      : tokenizer_(tokenizer), write_(std::move(write)) {}

  void add(int64_t id);
  void finish();  // writes what is left, a broken character too

 private:
  const Tokenizer& tokenizer_;
  std::function<void(std::string_view)> write_;
  std::vector<int64_t> pending_;  // tokens whose text ends within a character
};

}  // namespace moraine
