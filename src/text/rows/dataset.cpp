#include "text/rows/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <limits>
#include <mutex>
#include <set>
#include <span>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "base/workers.h"
#include "text/chat/chat_turns.h"
#include "text/chat/row_budget.h"
#include "text/chat/tojson.h"
#include "text/rows/row_reader.h"
#include "text/rows/training_rows.h"
#include "text/tokenizer/at_place.h"
#include "text/tokenizer/input_notes.h"
#include "text/tokenizer/unicode.h"

namespace moraine {
namespace {

// Rows are read and tokenised in chunks: enough for all threads, little to hold.
constexpr size_t kChunkRows = 1024;
constexpr size_t kChunkBytes = size_t{8} << 20;
// Rows of a file on which a template may spend all that one row has, a second or so each, before the file is given up.
constexpr size_t kMaxSpentRows = 16;

int num_threads() {
  const char* given = std::getenv("OMP_NUM_THREADS");
  const int wanted = given != nullptr ? std::atoi(given) : 0;
  const int found = wanted > 0 ? wanted : static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(found, 1, 8);
}

bool is_text_document(const std::string& file) { return std::filesystem::path(file).extension() == ".txt"; }

std::vector<int64_t> columns(size_t count) {
  std::vector<int64_t> result(count);
  for (size_t i = 0; i < count; ++i) result[i] = static_cast<int64_t>(i);
  return result;
}

Sample make_sample(TokenizedChat tokens) {
  Sample sample;
  sample.labels.resize(tokens.ids.size());
  for (size_t i = 0; i < tokens.ids.size(); ++i) sample.labels[i] = tokens.loss_mask[i] ? tokens.ids[i] : kNotTrained;
  sample.input_ids = std::move(tokens.ids);
  sample.position_ids = columns(sample.input_ids.size());
  return sample;
}

void check_vocabulary(const std::vector<int64_t>& ids, const Tokenizer& tokenizer, int64_t vocab_size) {
  for (int64_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    throw row_error(fmt::format("token id {} ({}) is outside the model's vocabulary of {}", id,
                                quoted_for_error(tokenizer.decode(std::span(&id, 1))), vocab_size),
                    "tokenizer.json and config.json do not belong together");
  }
}

// Keeps [begin, begin + count) of every vector; positions count from 0 again.
void cut(Sample& sample, size_t begin, size_t count) {
  for (std::vector<int64_t>* values : {&sample.input_ids, &sample.labels}) {
    *values = std::vector<int64_t>(values->begin() + static_cast<ptrdiff_t>(begin),
                                   values->begin() + static_cast<ptrdiff_t>(begin + count));
  }
  std::vector<int64_t>& positions = sample.position_ids;
  const int64_t first = positions[begin];
  positions = std::vector<int64_t>(positions.begin() + static_cast<ptrdiff_t>(begin),
                                   positions.begin() + static_cast<ptrdiff_t>(begin + count));
  for (int64_t& position : positions) position -= first;
}

using Fate = PreparedRow::Fate;

[[noreturn]] void refuse_untrained() {
  std::string hint =
      "without an answer there is nothing to learn; see data.loss_on, the messages' flags weight, train and loss";
  for (const ChatFormat& format : chat_formats()) {
    if (!format.leaves_untrained.empty()) hint += ", and " + format.leaves_untrained;
  }
  throw row_error("the row has no trained token", hint);
}

// Applies max_length and truncation, and refuses a row that trains nothing.
Fate fit(Sample& sample, const DataConfig& config) {
  if (count_trained_tokens(sample) == 0) refuse_untrained();
  const size_t length = sample.input_ids.size(), limit = static_cast<size_t>(config.max_length);
  if (length <= limit) return Fate::kKept;
  if (config.truncation == Truncation::kDrop) return Fate::kDropped;
  if (config.truncation == Truncation::kError) {
    throw row_error(fmt::format("{} tokens, more than data.max_length {}", length, limit),
                    "raise data.max_length, or set data.truncation to right, left or drop");
  }
  cut(sample, config.truncation == Truncation::kLeft ? length - limit : 0, limit);
  if (count_trained_tokens(sample) == 0) {
    throw row_error(fmt::format("no trained token is left after truncation from {} to {} tokens", length, limit),
                    "raise data.max_length, or set data.truncation: drop");
  }
  return Fate::kTruncated;
}

// What rows of text and chats are made with.
class RowEncoder {
 public:
  RowEncoder(const DataConfig& config, const Tokenizer& tokenizer, const ChatTemplate* chat, int64_t vocab_size)
      : config_(config),
        tokenizer_(tokenizer),
        chat_(chat),
        vocab_size_(vocab_size),
        loss_on_(config.loss_on),
        variables_(read_variables(config)),
        end_of_text_(tokenizer.token_to_id("<|endoftext|>")) {
    if (chat != nullptr) controls_ = control_tokens(*chat, tokenizer);
  }

  // One row, or those of a chat's turns. Throws input errors without the row's place.
  std::vector<PreparedRow> encode(const JsonRow& json, DataFormat format) const {
    OrderedJson json_row = parse_exact_json(json.text, "");
    if (needs_chat_template(format)) {
      ChatRow chat = chat_of_row(format, std::move(json_row), loss_on_ != LossOn::kAll);
      fill_variables(chat.messages, variables_);
      if (config_.turns == Turns::kEach) return encode_turns(chat);
      PreparedRow row;
      ChatText text = chat_->encoder->training_text(chat.messages, chat.tools);
      row.chat = std::move(chat);
      encode_chat(std::move(text), row);
      return only(std::move(row));
    }
    PreparedRow row;
    finish(format == DataFormat::kPromptText ? encode_prompt(json_row, row) : encode_text(json_row, row), row);
    return only(std::move(row));
  }

  bool ends_texts() const { return end_of_text_ >= 0; }

  // Every token is trained.
  TokenizedChat encode_text(const std::string& text) const {
    TokenizedChat tokens{tokenizer_.encode(text).ids, {}};
    add_end(tokens);
    tokens.loss_mask.assign(tokens.ids.size(), 1);
    return tokens;
  }

 private:
  static std::vector<PreparedRow> only(PreparedRow row) {
    std::vector<PreparedRow> rows;
    rows.push_back(std::move(row));
    return rows;
  }

  void finish(TokenizedChat tokens, PreparedRow& row) const {
    row.sample = make_sample(std::move(tokens));
    check_vocabulary(row.sample.input_ids, tokenizer_, vocab_size_);
    row.fate = fit(row.sample, config_);
  }

  std::vector<PreparedRow> encode_turns(const ChatRow& chat) const {
    std::vector<PreparedRow> rows;
    for (AssistantTurn& turn : each_turn(*chat_->encoder, chat.messages, chat.tools, loss_on_ == LossOn::kLast)) {
      PreparedRow& row = rows.emplace_back();
      row.chat = {std::move(turn.messages), chat.tools};
      at_place(fmt::format("messages[{}]", row.chat.messages.size() - 1),
               [&] { encode_chat(std::move(turn.text), row); });
    }
    if (rows.empty()) refuse_untrained();
    return rows;
  }

  void add_end(TokenizedChat& tokens) const {
    if (end_of_text_ >= 0 && (tokens.ids.empty() || tokens.ids.back() != end_of_text_))
      tokens.ids.push_back(end_of_text_);
  }

  TokenizedChat encode_text(const OrderedJson& json, PreparedRow& row) const {
    if (!json.is_object()) throw row_error("a row is not an object");
    auto text = json.find("text");
    if (text == json.end() || !text->is_string()) throw row_error("no text 'text'", "rows are {\"text\": …}");
    row.text = text->get<std::string>();
    return encode_text(row.text);
  }

  TokenizedChat encode_prompt(const OrderedJson& json, PreparedRow& row) const {
    const PromptText parts = prompt_text_of_row(json);
    if (parts.completion.empty()) throw row_error("the completion is empty");
    ChatText text{parts.prompt + parts.completion, {}, {}};
    text.trained.emplace_back(parts.prompt.size(), text.text.size());
    TokenizedChat tokens = tokenize_chat(text, tokenizer_, loss_on_);
    add_end(tokens);
    tokens.loss_mask.resize(tokens.ids.size(), 1);
    row.text = std::move(text.text);
    return tokens;
  }

  void encode_chat(ChatText text, PreparedRow& row) const {
    if (config_.allow_special_in_content) text.foreign.clear();
    row.turns = static_cast<int64_t>(loss_on_ == LossOn::kLast ? std::min<size_t>(text.trained.size(), 1)
                                                               : text.trained.size() - text.withheld.size());
    row.changed_turns = static_cast<int64_t>(text.changed_turns);
    finish(tokenize_chat(text, tokenizer_, loss_on_, controls_), row);
    row.text = std::move(text.text);
  }

  const DataConfig& config_;
  const Tokenizer& tokenizer_;
  const ChatTemplate* chat_;
  int64_t vocab_size_;
  LossOn loss_on_;
  std::map<std::string, std::string> variables_;
  std::vector<int64_t> controls_;
  int64_t end_of_text_;  // -1 when the tokenizer has none
};

using UseRow = std::function<void(PreparedRow&&)>;

struct EncodedRow {
  std::vector<PreparedRow> rows;
  std::exception_ptr error;
};

// Rows on which their template spends all that it may, in whatever order threads find them.
class SpentRows {
 public:
  void add(int64_t row) {
    std::lock_guard lock(mutex_);
    rows_.insert(row);
    if (rows_.size() >= kMaxSpentRows) last_ = *std::next(rows_.begin(), kMaxSpentRows - 1);
  }

  // The row that is one too many. It moves to the front only, so rows up to it are never left out.
  int64_t last() const { return last_; }

 private:
  std::mutex mutex_;
  std::set<int64_t> rows_;
  std::atomic<int64_t> last_ = std::numeric_limits<int64_t>::max();
};

std::exception_ptr one_too_many(const Error& spent) {
  const std::string what = fmt::format("{}; this is row {} of the file on which the template spends all that it may",
                                       spent.message, kMaxSpentRows);
  return std::make_exception_ptr(Error(spent.kind, spent.where, what, "is the template meant for such conversations?"));
}

// An error about the file, found after `count` rows of which some were bad.
[[noreturn]] void rethrow_with(const BadRows& bad, int64_t count, std::exception_ptr error) {
  if (bad.count() == 0) std::rethrow_exception(error);
  try {
    std::rethrow_exception(error);
  } catch (const Error& of_file) {
    throw Error(of_file.kind, of_file.where, of_file.message + "; before it " + bad.in_words(count), of_file.hint);
  }
}

int64_t read_json_rows(const std::string& file, DataFormat format, const RowEncoder& encoder, BadRows& bad,
                       const UseRow& use) {
  RowReader reader(file);
  SpentRows spent;
  int64_t count = 0;
  bool more = true;
  while (more) {
    std::vector<JsonRow> rows;
    JsonRow row;
    // A malformed array's error waits for the rows before it, whose errors come first.
    std::exception_ptr reader_error;
    try {
      for (size_t bytes = 0; rows.size() < kChunkRows && bytes < kChunkBytes && (more = reader.next(row));) {
        bytes += row.text.size();
        rows.push_back(std::move(row));
      }
    } catch (const Error&) {
      reader_error = std::current_exception();
    }
    std::vector<EncodedRow> encoded(rows.size());
    for_each_item(rows.size(), num_threads(), [&](size_t i) {
      const int64_t number = count + static_cast<int64_t>(i);
      if (number > spent.last()) return;
      const std::string where = fmt::format("{}:{}", file, rows[i].line);
      const RowBudget budget;
      try {
        encoded[i].rows = at_place(where, [&] { return encoder.encode(rows[i], format); });
        for (PreparedRow& made : encoded[i].rows) made.where = where;
      } catch (const Error&) {
        encoded[i].error = std::current_exception();
        if (budget.is_spent()) spent.add(number);
      }
      rows[i].text = {};
    });
    for (EncodedRow& result : encoded) {
      if (result.error) {
        try {
          std::rethrow_exception(result.error);
        } catch (const Error& error) {
          if (count == spent.last()) rethrow_with(bad, count, one_too_many(error));
          bad.add(error);
        }
      } else {
        for (PreparedRow& made : result.rows) use(std::move(made));
      }
      ++count;
    }
    if (reader_error) rethrow_with(bad, count, reader_error);
  }
  return count;
}

void check_utf8(std::string_view text, const std::string& file) {
  for (int64_t line = 1; !text.empty(); ++line) {
    const size_t length = std::min(text.find('\n'), text.size() - 1) + 1;
    if (!is_valid_utf8(text.substr(0, length))) throw input_error(fmt::format("{}:{}", file, line), "not UTF-8");
    text.remove_prefix(length);
  }
}

int64_t read_document(const std::string& file, const DataConfig& config, const RowEncoder& encoder,
                      const Tokenizer& tokenizer, int64_t vocab_size, const UseRow& use) {
  // The tokenizer takes 2 GiB at a time.
  std::string text = read_text_file(file, std::numeric_limits<int32_t>::max());
  if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
  check_utf8(text, file);
  if (text.find_first_not_of(" \t\r\n") == text.npos) throw input_error(file, "holds no text");
  const TokenizedChat tokens = encoder.encode_text(text);
  at_place(file, [&] { check_vocabulary(tokens.ids, tokenizer, vocab_size); });
  const size_t limit = static_cast<size_t>(config.max_length);
  int64_t rows = 0;
  for (size_t begin = 0; begin < tokens.ids.size(); begin += limit) {
    const size_t count = std::min(limit, tokens.ids.size() - begin);
    if (count < 2) continue;
    PreparedRow row;
    row.where = file;
    Sample& sample = row.sample;
    sample.input_ids.assign(tokens.ids.begin() + static_cast<ptrdiff_t>(begin),
                            tokens.ids.begin() + static_cast<ptrdiff_t>(begin + count));
    sample.labels = sample.input_ids;
    sample.position_ids = columns(count);
    use(std::move(row));
    ++rows;
  }
  return rows;
}

int64_t read_tokens(const std::string& file, const DataConfig& config, int64_t vocab_size, BadRows& bad,
                    const UseRow& use) {
  TokensFile shape;
  for_each_tokens_row(file, vocab_size, shape, [&](int64_t i, const std::function<Sample()>& read) {
    PreparedRow row;
    row.where = fmt::format("{}: row {}", file, i);
    try {
      row.sample = read();
      row.fate = at_place(row.where, [&] { return fit(row.sample, config); });
    } catch (const Error& error) {
      bad.add(error);
      return;
    }
    use(std::move(row));
  });
  return shape.rows;
}

void refuse_other_containers(const std::string& file) {
  std::filesystem::path name = file;
  if (name.extension() == ".gz") name = name.stem();
  const std::string extension = name.extension().string();
  if (extension == ".txt") throw input_error(file, "a compressed document is not read", "decompress it");
  for (const char* other : {".parquet", ".arrow", ".csv", ".tsv", ".tar", ".tgz", ".zst", ".bz2", ".xz", ".zip"}) {
    if (extension == other) {
      throw input_error(file, fmt::format("{} files are not read", other), "write it as JSONL, one object a line");
    }
  }
}

// The format of the first row that has one; when none of the first rows does, the error of the first. With
// `prompt_completion` whether prompts are texts or messages is all that is asked.
DataFormat format_of_first_row(const std::string& file, bool prompt_completion) {
  RowReader reader(file);
  std::exception_ptr first_error;
  JsonRow row;
  for (size_t i = 0; i < kChunkRows && reader.next(row); ++i) {
    try {
      return at_place(fmt::format("{}:{}", file, row.line), [&] {
        const DataFormat format = format_of_row(parse_exact_json(row.text, ""));
        if (!prompt_completion || format == DataFormat::kPromptMessages || format == DataFormat::kPromptText)
          return format;
        throw row_error("no 'prompt' and 'completion'");
      });
    } catch (const Error&) {
      if (!first_error) first_error = std::current_exception();
    }
  }
  if (first_error) std::rethrow_exception(first_error);
  throw input_error(file, "holds no rows");
}

}  // namespace

DataFormat data_format_of(const std::string& file, const DataConfig& config) {
  const std::string extension = std::filesystem::path(file).extension().string();
  if (config.format == DataFormatChoice::kTokens ||
      (config.format == DataFormatChoice::kAuto && extension == ".safetensors"))
    return DataFormat::kTokens;
  if (extension == ".safetensors") throw input_error(file, "data.format is not tokens, but this is a tokens file");
  if (config.format == DataFormatChoice::kText || (config.format == DataFormatChoice::kAuto && is_text_document(file)))
    return DataFormat::kText;
  refuse_other_containers(file);
  if (config.format == DataFormatChoice::kMessages) return DataFormat::kMessages;
  if (config.format == DataFormatChoice::kShareGpt) return DataFormat::kShareGpt;
  if (config.format == DataFormatChoice::kAlpaca) return DataFormat::kAlpaca;
  return format_of_first_row(file, config.format == DataFormatChoice::kPromptCompletion);
}

int64_t read_data_file(const std::string& file, const DataConfig& config, const Tokenizer* tokenizer,
                       const ChatTemplate* chat, int64_t vocab_size, BadRows& bad,
                       const std::function<void(PreparedRow&&)>& use) {
  MORAINE_ASSERT(config.max_length > 0, "data.max_length was checked with the recipe");
  const DataFormat format = data_format_of(file, config);
  int64_t rows = 0;
  if (format == DataFormat::kTokens) {
    rows = read_tokens(file, config, vocab_size, bad, use);
  } else {
    if (tokenizer == nullptr) throw input_error(file, "needs a tokenizer", "is there a tokenizer.json in model.path?");
    if (needs_chat_template(format)) {
      if (chat == nullptr) throw input_error(file, "needs a chat template", "data.template");
      check_turn_tokens(*chat, *tokenizer);
    }
    const RowEncoder encoder(config, *tokenizer, chat, vocab_size);
    if (!needs_chat_template(format) && !encoder.ends_texts())
      note_about_input(
          fmt::format("{}: its texts are trained without an end: the tokenizer has no <|endoftext|>", file));
    rows = format == DataFormat::kText && is_text_document(file)
               ? read_document(file, config, encoder, *tokenizer, vocab_size, use)
               : read_json_rows(file, format, encoder, bad, use);
  }
  if (rows == 0) throw input_error(file, "holds no rows");
  return rows;
}

std::string in_words(const Dataset& data) {
  int64_t tokens = 0, trained = 0, longest = 0;
  for (const Sample& sample : data.samples) {
    const auto length = static_cast<int64_t>(sample.input_ids.size());
    tokens += length;
    trained += count_trained_tokens(sample);
    longest = std::max(longest, length);
  }
  const auto counted = [](int64_t count, const char* what) {
    return count > 0 ? fmt::format(", {} {}", count, what) : "";
  };
  const auto samples = static_cast<int64_t>(data.samples.size());
  const bool are_split = samples != data.rows - data.dropped - data.skipped;
  return fmt::format("{} rows{}{}, {} tokens, {}% of them trained, longest {}{}{}{}", data.rows,
                     are_split ? fmt::format(" make {} samples", samples) : "", counted(data.turns, "assistant turns"),
                     tokens, tokens > 0 ? trained * 100 / tokens : 0, longest, counted(data.truncated, "truncated"),
                     counted(data.dropped, "dropped"), counted(data.skipped, "bad ones left out"));
}

Dataset load_dataset(const std::vector<std::string>& files, const DataConfig& config, const Tokenizer* tokenizer,
                     const ChatTemplate* chat, int64_t vocab_size) {
  Dataset dataset;
  BadRows bad;
  const auto use = [&](PreparedRow&& row) {
    if (row.fate == Fate::kDropped) {
      ++dataset.dropped;
      return;
    }
    if (row.fate == Fate::kTruncated) ++dataset.truncated;
    dataset.turns += row.turns;
    dataset.changed_turns += row.changed_turns;
    dataset.samples.push_back(std::move(row.sample));
  };
  for (const std::string& file : files) {
    BadRows of_file;
    const int64_t rows_of_file = read_data_file(file, config, tokenizer, chat, vocab_size,
                                                config.on_bad_rows == OnBadRows::kSkip ? of_file : bad, use);
    dataset.rows += rows_of_file;
    dataset.skipped += of_file.count();
    if (of_file.count() == rows_of_file) throw input_error(file, "every row is bad: " + of_file.in_words(rows_of_file));
    if (of_file.count() > 0)
      note_about_input(
          fmt::format("{}: {} (left out: data.on_bad_rows is skip)", file, of_file.in_words(rows_of_file)));
  }
  bad.refuse(files.size() == 1 ? files.front() : "data", dataset.rows);
  if (dataset.samples.empty()) {
    throw input_error(files.empty() ? "data" : join_words(files),
                      dataset.dropped > 0
                          ? fmt::format("all {} rows are longer than data.max_length {} and were dropped",
                                        dataset.dropped, config.max_length)
                          : "no rows");
  }
  if (dataset.changed_turns > 0) {
    const std::string turns =
        fmt::format("{} assistant turn{}", dataset.changed_turns, dataset.changed_turns == 1 ? "" : "s");
    note_about_input(
        config.turns == Turns::kEach
            ? turns +
                  ": the generation prompt that serves it is not how its text begins; it is trained as the "
                  "template shows it"
            : turns +
                  " not shown as when it was the last of its conversation (thinking is left out); "
                  "data.turns: each trains every turn as it is served");
  }
  return dataset;
}

}  // namespace moraine
