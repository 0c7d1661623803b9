// Tokens back to text, as tokenizer.json's decoder does it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "text/tokenizer/json_field.h"

namespace moraine {

class TokenDecoder {
 public:
  // tokenizer.json's "decoder". Throws an input error on anything but ByteLevel, or with byte_fallback Replace,
  // ByteFallback, Fuse, Strip, Metaspace and sequences of them.
  static TokenDecoder from_json(const JsonField& field, bool byte_fallback);

  // The bytes that a token, spelled as in the file, stands for in the middle of a text.
  std::string bytes(const std::string& token) const;
  // The text of tokens, of which `spelled` has the spelling and `bytes` what bytes() gives. Valid UTF-8.
  std::string decode(const std::vector<const std::string*>& spelled,
                     const std::vector<const std::string*>& bytes) const;

 private:
  struct Replace {
    std::string pattern, content;
  };
  struct ByteFallback {};
  struct Fuse {};
  struct Strip {
    std::string content;  // one character
    size_t start;         // how many of it are taken from the beginning, at most
  };
  struct Metaspace {
    std::string replacement;
    bool prepends;  // the first token has none
  };
  using Step = std::variant<Replace, ByteFallback, Fuse, Strip, Metaspace>;

  TokenDecoder() = default;
  void add(const JsonField& field);

  bool byte_fallback_ = false;
  std::vector<Step> steps_;  // filled for byte_fallback only
};

}  // namespace moraine
