#include "data/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <limits>
#include <span>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "base/workers.h"
#include "data/row_reader.h"
#include "data/tojson.h"
#include "data/unicode.h"

namespace moraine {
namespace {

constexpr int64_t kNotTrained = -100;
// Rows are read and tokenised in chunks: enough for all threads, little to hold.
constexpr size_t kChunkRows = 1024;
constexpr size_t kChunkBytes = size_t{8} << 20;

LossOn parse_loss_on(const std::string& name) {
  if (name == "all") return LossOn::kAll;
  if (name == "last") return LossOn::kLast;
  MORAINE_ASSERT(name == "assistant", "data.loss_on was checked with the recipe");
  return LossOn::kAssistant;
}

int num_threads() {
  const char* given = std::getenv("OMP_NUM_THREADS");
  const int wanted = given != nullptr ? std::atoi(given) : 0;
  const int found = wanted > 0 ? wanted : static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(found, 1, 8);
}

bool is_text_document(const std::string& file) {
  return std::filesystem::path(file).extension() == ".txt";
}

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

// The first label is never a target: nothing comes before it.
bool trains_something(const Sample& sample) {
  return !sample.labels.empty() && std::any_of(sample.labels.begin() + 1, sample.labels.end(),
                                               [](int64_t label) { return label != kNotTrained; });
}

void check_vocabulary(const std::vector<int64_t>& ids, const Tokenizer& tokenizer, int64_t vocab_size,
                      const std::string& where) {
  for (int64_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    throw input_error(where,
                      fmt::format("token id {} ({}) is outside the model's vocabulary of {}", id,
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

enum class Outcome { kKept, kTruncated, kDropped };

// Applies max_length and truncation, and refuses a row that trains nothing.
Outcome fit(Sample& sample, const DataConfig& config, const std::string& where) {
  if (!trains_something(sample)) {
    throw input_error(where, "the row has no trained token",
                      "without an answer there is nothing to learn; see data.loss_on, the messages' flags weight, train "
                      "and loss, and drop_thinking of deepseek_v4 with thinking");
  }
  const size_t length = sample.input_ids.size(), limit = static_cast<size_t>(config.max_length);
  if (length <= limit) return Outcome::kKept;
  if (config.truncation == "drop") return Outcome::kDropped;
  if (config.truncation == "error") {
    throw input_error(where, fmt::format("{} tokens, more than data.max_length {}", length, limit),
                      "raise data.max_length, or set data.truncation to right, left or drop");
  }
  cut(sample, config.truncation == "left" ? length - limit : 0, limit);
  if (!trains_something(sample)) {
    throw input_error(where,
                      fmt::format("no trained token is left after truncation from {} to {} tokens", length, limit),
                      "raise data.max_length, or set data.truncation: drop");
  }
  return Outcome::kTruncated;
}

void add(Dataset& dataset, Sample sample, Outcome outcome) {
  if (outcome == Outcome::kDropped) {
    ++dataset.dropped;
    return;
  }
  if (outcome == Outcome::kTruncated) ++dataset.truncated;
  dataset.samples.push_back(std::move(sample));
}

// What rows of text and chats are made with.
class RowEncoder {
 public:
  RowEncoder(const DataConfig& config, const Tokenizer& tokenizer, const ChatTemplate* chat, int64_t vocab_size)
      : config_(config),
        tokenizer_(tokenizer),
        chat_(chat),
        vocab_size_(vocab_size),
        loss_on_(parse_loss_on(config.loss_on)),
        variables_(read_variables(config)),
        end_of_text_(tokenizer.token_to_id("<|endoftext|>")) {}

  Sample encode(const JsonRow& json, DataFormat format, const std::string& where) const {
    OrderedJson row = parse_exact_json(json.text, where);
    Sample sample =
        make_sample(format == DataFormat::kText ? encode_text(row, where) : encode_chat(format, std::move(row), where));
    check_vocabulary(sample.input_ids, tokenizer_, vocab_size_, where);
    return sample;
  }

  // Every token is trained.
  TokenizedChat encode_text(const std::string& text) const {
    TokenizedChat tokens{tokenizer_.encode(text).ids, {}};
    if (end_of_text_ >= 0 && (tokens.ids.empty() || tokens.ids.back() != end_of_text_))
      tokens.ids.push_back(end_of_text_);
    tokens.loss_mask.assign(tokens.ids.size(), 1);
    return tokens;
  }

 private:
  TokenizedChat encode_text(const OrderedJson& row, const std::string& where) const {
    if (!row.is_object()) throw input_error(where, "a row is not an object");
    auto text = row.find("text");
    if (text == row.end() || !text->is_string()) throw input_error(where, "no text 'text'", "rows are {\"text\": …}");
    return encode_text(text->get_ref<const std::string&>());
  }

  TokenizedChat encode_chat(DataFormat format, OrderedJson row, const std::string& where) const {
    ChatRow chat = chat_of_row(format, std::move(row), where);
    fill_variables(chat.messages, variables_, where);
    return tokenize_chat(chat_->training_text(chat.messages, chat.tools, where), tokenizer_, loss_on_);
  }

  const DataConfig& config_;
  const Tokenizer& tokenizer_;
  const ChatTemplate* chat_;
  int64_t vocab_size_;
  LossOn loss_on_;
  std::map<std::string, std::string> variables_;
  int64_t end_of_text_;  // -1 when the tokenizer has none
};

struct EncodedRow {
  Sample sample;
  Outcome outcome = Outcome::kKept;
  std::exception_ptr error;
};

void load_json_rows(const std::string& file, DataFormat format, const DataConfig& config, const RowEncoder& encoder,
                    Dataset& dataset) {
  RowReader reader(file);
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
      EncodedRow& result = encoded[i];
      try {
        const std::string where = fmt::format("{}:{}", file, rows[i].line);
        result.sample = encoder.encode(rows[i], format, where);
        result.outcome = fit(result.sample, config, where);
      } catch (const Error&) {
        result.error = std::current_exception();
      }
      rows[i].text = {};
    });
    for (EncodedRow& result : encoded) {
      if (result.error) std::rethrow_exception(result.error);
      add(dataset, std::move(result.sample), result.outcome);
    }
    if (reader_error) std::rethrow_exception(reader_error);
  }
}

void check_utf8(std::string_view text, const std::string& file) {
  for (int64_t line = 1; !text.empty(); ++line) {
    const size_t length = std::min(text.find('\n'), text.size() - 1) + 1;
    if (!is_valid_utf8(text.substr(0, length))) throw input_error(fmt::format("{}:{}", file, line), "not UTF-8");
    text.remove_prefix(length);
  }
}

void load_document(const std::string& file, const DataConfig& config, const RowEncoder& encoder,
                   const Tokenizer& tokenizer, int64_t vocab_size, Dataset& dataset) {
  // The tokenizer takes 2 GiB at a time.
  std::string text = read_text_file(file, std::numeric_limits<int32_t>::max());
  if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
  check_utf8(text, file);
  if (text.find_first_not_of(" \t\r\n") == text.npos) throw input_error(file, "holds no text");
  const TokenizedChat tokens = encoder.encode_text(text);
  check_vocabulary(tokens.ids, tokenizer, vocab_size, file);
  const size_t limit = static_cast<size_t>(config.max_length);
  for (size_t begin = 0; begin < tokens.ids.size(); begin += limit) {
    const size_t count = std::min(limit, tokens.ids.size() - begin);
    if (count < 2) continue;
    Sample sample;
    sample.input_ids.assign(tokens.ids.begin() + static_cast<ptrdiff_t>(begin),
                            tokens.ids.begin() + static_cast<ptrdiff_t>(begin + count));
    sample.labels = sample.input_ids;
    sample.position_ids = columns(count);
    dataset.samples.push_back(std::move(sample));
  }
}

void load_tokens(const std::string& file, const DataConfig& config, int64_t vocab_size, Dataset& dataset) {
  TokensFile tokens = read_tokens_file(file, vocab_size);
  for (size_t i = 0; i < tokens.samples.size(); ++i) {
    const Outcome outcome = fit(tokens.samples[i], config, fmt::format("{}: row {}", file, i));
    add(dataset, std::move(tokens.samples[i]), outcome);
  }
}

void refuse_other_containers(const std::string& file) {
  const std::string extension = std::filesystem::path(file).extension().string();
  for (const char* other : {".parquet", ".arrow", ".csv", ".tsv", ".gz", ".zst", ".bz2", ".xz", ".zip"}) {
    if (extension == other) {
      throw input_error(file, fmt::format("{} files are not read", other), "write it as JSONL, one object a line");
    }
  }
}

}  // namespace

DataFormat data_format_of(const std::string& file, const DataConfig& config) {
  const std::string extension = std::filesystem::path(file).extension().string();
  if (config.format == "tokens" || (config.format == "auto" && extension == ".safetensors")) return DataFormat::kTokens;
  if (extension == ".safetensors") throw input_error(file, "data.format is not tokens, but this is a tokens file");
  if (config.format == "text" || (config.format == "auto" && is_text_document(file))) return DataFormat::kText;
  refuse_other_containers(file);
  if (config.format == "messages") return DataFormat::kMessages;
  if (config.format == "sharegpt") return DataFormat::kShareGpt;
  if (config.format == "alpaca") return DataFormat::kAlpaca;
  MORAINE_ASSERT(config.format == "auto", "data.format was checked with the recipe");
  RowReader reader(file);
  JsonRow row;
  if (!reader.next(row)) throw input_error(file, "holds no rows");
  const std::string where = fmt::format("{}:{}", file, row.line);
  return format_of_row(parse_exact_json(row.text, where), where);
}

Dataset load_dataset(const std::vector<std::string>& files, const DataConfig& config, const Tokenizer* tokenizer,
                     const ChatTemplate* chat, int64_t vocab_size) {
  MORAINE_ASSERT(config.max_length > 0, "data.max_length was checked with the recipe");
  Dataset dataset;
  for (const std::string& file : files) {
    const size_t before = dataset.samples.size() + static_cast<size_t>(dataset.dropped);
    const DataFormat format = data_format_of(file, config);
    if (format == DataFormat::kTokens) {
      load_tokens(file, config, vocab_size, dataset);
    } else {
      if (tokenizer == nullptr) {
        throw input_error(file, "needs a tokenizer", "is there a tokenizer.json in model.path?");
      }
      if (format != DataFormat::kText && chat == nullptr)
        throw input_error(file, "needs a chat template", "data.template");
      const RowEncoder encoder(config, *tokenizer, chat, vocab_size);
      if (format == DataFormat::kText && is_text_document(file)) {
        load_document(file, config, encoder, *tokenizer, vocab_size, dataset);
      } else {
        load_json_rows(file, format, config, encoder, dataset);
      }
    }
    if (dataset.samples.size() + static_cast<size_t>(dataset.dropped) == before)
      throw input_error(file, "holds no rows");
  }
  if (dataset.samples.empty()) {
    throw input_error(files.empty() ? "data" : join_words(files),
                      dataset.dropped > 0
                          ? fmt::format("all {} rows are longer than data.max_length {} and were dropped",
                                        dataset.dropped, config.max_length)
                          : "no rows");
  }
  return dataset;
}

}  // namespace moraine
