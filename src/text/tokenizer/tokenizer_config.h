// The files beside tokenizer.json that change what a tokenizer does in transformers.
#pragma once

#include <filesystem>
#include <vector>

#include "base/json.h"
#include "text/tokenizer/added_tokens.h"
#include "text/tokenizer/byte_pair_encoding.h"

namespace moraine {

// The added tokens of a checkpoint's tokenizer as transformers' AutoTokenizer has them, `in_file` being those of
// tokenizer.json: tokenizer_config.json's added_tokens_decoder, or without it added_tokens.json and
// special_tokens_map.json, and special tokens that these name (eos_token, extra_special_tokens, …). A token that the
// vocabulary lacks gets the next free id. Throws an input error that names the file and the token where files
// contradict each other: another id than that one, or tokens that only tokenizer.json has while the class that reads it
// takes them from added_tokens_decoder.
//
// Also refuses split_special_tokens, and says in one line (input_notes.h) when the class that transformers takes splits
// text otherwise than `tokenizer_json` says, which is followed here. Keys that change nothing there (add_bos_token,
// add_prefix_space beside a generic class, …) are passed over.
std::vector<AddedToken> tokens_of_folder(std::vector<AddedToken> in_file, const BytePairEncoding& model,
                                         const Json& tokenizer_json, const std::filesystem::path& folder);

}  // namespace moraine
