// The parts of a Hugging Face tokenizer.json.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "text/tokenizer/added_tokens.h"
#include "text/tokenizer/byte_pair_encoding.h"
#include "text/tokenizer/normalizer.h"
#include "text/tokenizer/pre_tokenizer.h"
#include "text/tokenizer/token_decoder.h"

namespace moraine {

struct TokenizerParts {
  BytePairEncoding model;
  PreTokenizer pre_tokenizer;
  Normalizer normalizer;
  TokenDecoder decoder;
  std::vector<AddedToken> added_tokens;  // contents as in the file
};

// Throws an input error that names the file and the field: malformed, or anything but byte-level BPE and
// BPE with byte_fallback. Truncation, padding and the post-processor are passed over: encoding adds no tokens.
TokenizerParts read_tokenizer_json(const std::filesystem::path& path);

// The same of a checkpoint's folder: tokenizer.json, with the tokens that the files beside it add (tokens_of_folder).
TokenizerParts read_tokenizer_folder(const std::filesystem::path& folder);

}  // namespace moraine
