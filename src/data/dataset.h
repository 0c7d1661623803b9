// Training rows from files: chats (messages, ShareGPT, Alpaca), plain text or ready tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/recipe.h"
#include "data/chat_formats.h"
#include "data/chat_template.h"
#include "data/tokenizer.h"

namespace moraine {

// One sequence. All vectors have the same length.
struct Sample {
  std::vector<int64_t> input_ids;
  std::vector<int64_t> labels;        // -100 = not trained; unshifted, as in transformers
  std::vector<int64_t> position_ids;  // column in the row; differs from 0,1,2,… only behind masked tokens
};

struct Dataset {
  std::vector<Sample> samples;
  int64_t dropped = 0;    // by truncation: drop
  int64_t truncated = 0;  // by truncation: right or left
};

// How `file` is read: data.format, or under auto by its extension (.safetensors: tokens, .txt: text), else by the keys
// of its first row. Tells a caller what a file needs: tokens no tokenizer, text no chat template. Throws input errors
// that name the file: missing, empty, of no known format.
DataFormat data_format_of(const std::string& file, const DataConfig& config);

// Reads `files` as data.format says and applies max_length and truncation.
//
// Chats (messages, sharegpt, alpaca; see chat_formats.h) are rendered by `chat` and trained as data.loss_on says.
// text: {"text": …} a line is a row; a .txt file is one document, cut into rows of max_length whatever data.truncation
// says (a single token left over at its end is no row, for it could train nothing). Every token is trained;
// <|endoftext|> is appended to a text or document when the tokenizer knows it, and nothing is when it does not. tokens:
// see read_tokens_file. JSON rows are one object a line, or one array of objects in a file.
//
// `tokenizer` may be null when every file is tokens, `chat` when none is a chat. Rows are tokenised by several threads,
// in order. Throws an input error `FILE:LINE: …` (`FILE: row N` for tokens), that of the first bad row: broken JSON,
// unknown roles, a row longer than max_length under truncation: error, ids outside [0, vocab_size), a row without any
// trained token (a row whose every label lost to truncation too), no row at all.
Dataset load_dataset(const std::vector<std::string>& files, const DataConfig& config, const Tokenizer* tokenizer,
                     const ChatTemplate* chat, int64_t vocab_size);

// The rows of a tokens file (input_ids [B,T], optional attention_mask, labels): masked positions are left out of a
// Sample, so a row may be shorter than T. Throws input errors that name file and tensor.
struct TokensFile {
  int64_t rows = 0, columns = 0;  // B, T
  std::vector<Sample> samples;    // B of them
};
TokensFile read_tokens_file(const std::string& path, int64_t vocab_size);

}  // namespace moraine
