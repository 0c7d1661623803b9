// Byte-pair encoding read from a Hugging Face tokenizer.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moraine {

struct Encoding {
  std::vector<int64_t> ids;
  // For each id the bytes [begin, end) of the text it came from: of the text as given, before normalisation. A token of
  // a stretch that normalisation changed has the whole stretch; a character put in front has the one it stands before.
  std::vector<std::pair<uint32_t, uint32_t>> offsets;
};

// Parts of a text in which special tokens are text like any other.
struct PlainParts {
  std::span<const std::pair<size_t, size_t>> ranges;  // bytes [begin, end) of the text, in order
  std::span<const int64_t> more;                      // added tokens that count as special
};

class Tokenizer {
 public:
  // Throws an input error that names the file and the unsupported part of a tokenizer that is neither byte-level BPE
  // nor BPE with byte_fallback.
  static Tokenizer from_file(const std::filesystem::path& tokenizer_json);
  // A checkpoint's tokenizer, as every command uses it: tokenizer.json and the tokens that the files beside it add.
  // Throws input errors as from_file does, and where the files contradict each other.
  static Tokenizer from_folder(const std::filesystem::path& model_folder);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // The ids of `text` (UTF-8; ill-formed bytes count as U+FFFD). Added and special tokens in the text are recognised;
  // no BOS/EOS is added. Offsets ascend; together they cover the text, save what a Split removes. Safe from several
  // threads. Throws an input error on a byte that the vocabulary has no token for and on text of 2 GiB or more.
  Encoding encode(std::string_view text) const { return encode(text, {}); }
  // The same, but no special token is recognised that holds a byte of a plain part.
  Encoding encode(std::string_view text, const PlainParts& plain) const;
  // The ids of the added tokens, special or not, that stand in `text`; each once.
  std::vector<int64_t> added_tokens_in(std::string_view text) const;
  // The text of the ids, special tokens included; bytes that are no UTF-8 become U+FFFD as in the reference decoder.
  std::string decode(std::span<const int64_t> ids) const;
  std::string decode_skipping_special(std::span<const int64_t> ids) const;
  // The bytes that a token stands for, which need not be whole characters; "" for an id that is none.
  std::string bytes_of(int64_t id) const;
  // -1 when the vocabulary (added tokens included) has no such token.
  int64_t token_to_id(std::string_view token) const;
  // One more than the largest id.
  int64_t vocab_size() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moraine
