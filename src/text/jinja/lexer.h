// A template's source as tokens: text between tags, and what is inside of them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/failure.h"

namespace moraine::jinja {

enum class TokenKind {
  kText,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;     // text as written out, a name, a string's value, an operator, a number's digits
  int64_t integer = 0;  // of kInteger
  bool is_big = false;  // of kInteger: beyond 64 bits, `text` has its digits
  double number = 0;    // of kFloat
  Place place;
};

// Jinja's own newlines and white space: line ends become \n, one at the end is dropped, trim_blocks and lstrip_blocks
// hold, "-" and "+" in tags count. `source` is valid UTF-8. Throws Failure on a malformed template.
std::vector<Token> tokens_of(std::string_view source);

}  // namespace moraine::jinja
