// Training rows from files: chats (messages, ShareGPT, Alpaca, prompt and completion), plain text or ready tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "config/recipe.h"
#include "text/chat/chat_template.h"
#include "text/rows/bad_rows.h"
#include "text/rows/row_formats.h"
#include "text/tokenizer/tokenizer.h"

namespace moraine {

constexpr int64_t kNotTrained = -100;  // a label

// One sequence. All vectors have the same length.
struct Sample {
  std::vector<int64_t> input_ids;
  std::vector<int64_t> labels;        // or kNotTrained; unshifted, as in transformers
  std::vector<int64_t> position_ids;  // column in the row; differs from 0,1,2,… only behind masked tokens
};

struct Dataset {
  std::vector<Sample> samples;
  int64_t dropped = 0;        // by truncation: drop
  int64_t truncated = 0;      // by truncation: right or left
  int64_t skipped = 0;        // bad rows, by on_bad_rows: skip
  int64_t rows = 0;           // of the files, bad ones and dropped ones included
  int64_t turns = 0;          // trained assistant turns of `samples`, before truncation
  int64_t changed_turns = 0;  // assistant turns that are not shown as they are served (ChatText::changed_turns)
};

// What training makes of one row, or under data.turns: each of one assistant turn of it.
struct PreparedRow {
  enum class Fate { kKept, kTruncated, kDropped };
  std::string where;  // FILE:LINE
  std::string text;   // the whole row's, rendered; "" for ready tokens and documents
  ChatRow chat;       // placeholders filled in; no messages when the row is no chat; up to the turn under each
  int64_t turns = 0, changed_turns = 0;  // assistant turns: trained, and of those as ChatText counts them
  Sample sample;
  Fate fate = Fate::kKept;
};

// How `file` is read: data.format, or under auto by its extension (.safetensors: tokens, .txt: text), else by the keys
// of its first row of a known format. Tells a caller what a file needs: tokens no tokenizer, text no chat template.
// Throws input errors that name the file: missing, empty, of no known format.
DataFormat data_format_of(const std::string& file, const DataConfig& config);

// Calls `use` with each row of `file`, or each turn of each chat (data.turns), in order, as data.format says, with
// max_length and truncation applied: the one path of training, evaluation and `moraine tokenize`.
//
// Chats (messages, sharegpt, alpaca, prompt_completion of messages; see row_formats.h) are rendered by `chat` and
// trained as data.loss_on says. text: {"text": …} a line is a row; a .txt file is one document, cut into rows of
// max_length whatever data.truncation says (a single token left over at its end is no row, for it could train nothing).
// Every token is trained;
// <|endoftext|> is appended to a text or document when the tokenizer knows it, and nothing is when it does not.
// prompt_completion of texts: {"prompt": …, "completion": …}, one text of which the tokens with a byte of the
// completion are trained, or all under loss_on: all; it ends as a text does. tokens: see read_tokens_file. JSON rows
// are one object a line, or one array of objects in a file, which may be compressed with gzip.
//
// `tokenizer` may be null when the file is tokens, `chat` when it holds no chats. Rows are tokenised by several
// threads. A row that cannot be used goes to `bad` and not to `use`: broken JSON, unknown roles, a row longer than
// max_length under truncation: error, ids outside [0, vocab_size), a row without any trained token (a row whose every
// label lost to truncation too). Throws an input error about all else: no row at all, a file that is not well-formed, a
// chat format whose tokens the tokenizer does not have. Returns the number of rows, bad ones included.
int64_t read_data_file(const std::string& file, const DataConfig& config, const Tokenizer* tokenizer,
                       const ChatTemplate* chat, int64_t vocab_size, BadRows& bad,
                       const std::function<void(PreparedRow&&)>& use);

// The samples of `files`. Bad rows are an input error that names the first of them and counts all, or under
// on_bad_rows: skip left out with one line that does (input_notes.h); a file with nothing but bad rows is an error.
Dataset load_dataset(const std::vector<std::string>& files, const DataConfig& config, const Tokenizer* tokenizer,
                     const ChatTemplate* chat, int64_t vocab_size);

// "3 rows, 5 assistant turns, 812 tokens, 41% of them trained, longest 400, 1 truncated": what was read, in one line.
std::string in_words(const Dataset& data);

// The rows of a tokens file (input_ids [B,T], optional attention_mask, labels): masked positions are left out of a
// Sample, so a row may be shorter than T. Throws input errors that name file and tensor.
struct TokensFile {
  int64_t rows = 0, columns = 0;  // B, T
  std::vector<Sample> samples;    // B of them
};
TokensFile read_tokens_file(const std::string& path, int64_t vocab_size);

// The same, a row at a time: `use` is called with the number of each row and what reads it, which throws an input error
// about that row.
void for_each_tokens_row(const std::string& path, int64_t vocab_size, TokensFile& shape,
                         const std::function<void(int64_t row, const std::function<Sample()>& read)>& use);

}  // namespace moraine
