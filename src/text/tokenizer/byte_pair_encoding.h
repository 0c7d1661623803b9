// Byte-pair encoding over bytes (byte-level) or over characters, with a token for each byte of those that have none.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/tokenizer/json_field.h"

namespace moraine {

// The bytes that a token's text stands for in the byte-level alphabet ("Ġa" is " a"); nothing when a character of it is
// not in that alphabet.
std::optional<std::string> byte_level_bytes(std::string_view token);

// The byte that a token of the form "<0x0A>" stands for.
std::optional<unsigned char> byte_of_token(std::string_view token);

class BytePairEncoding {
 public:
  // tokenizer.json's "model". Throws an input error that names the field when it is neither byte-level BPE nor BPE with
  // byte_fallback and a token for every byte.
  static BytePairEncoding from_json(const JsonField& field);

  // Remembers the ids of words seen before and holds buffers. One for each thread.
  class Scratch {
   public:
    Scratch() { clear(); }

   private:
    friend class BytePairEncoding;
    struct Entry {
      uint64_t key = 0;                      // the word itself when it has at most 8 bytes, else a hash of it
      uint32_t text_begin = 0;               // where a longer word lies in `text`
      uint32_t ids_begin = 0;                // where the ids lie in `ids`; a single id itself
      uint16_t text_size = 0, ids_size = 0;  // text_size 0: free
    };
    void clear();
    void grow();

    std::vector<Entry> entries;  // open addressing, a power of two
    size_t used = 0;
    std::string text;
    std::vector<uint32_t> ids;

    struct Merge {
      uint32_t rank, position, id;
    };
    struct Symbol {
      uint32_t id;
      int32_t previous, next;  // -1: none
      bool removed;
    };
    std::vector<Merge> heap;
    std::vector<Symbol> symbols;
  };

  // Appends the ids of one word (not empty). Throws an input error when the vocabulary lacks a byte of it.
  void encode(std::string_view word, Scratch& scratch, std::vector<uint32_t>& ids) const;

  // How many bytes of a word the token stands for, where the word has several tokens. (Text that spells a byte's token
  // can be that token only as a whole word.)
  uint32_t num_bytes(uint32_t id) const { return num_bytes_[id]; }

  // Whether words are of characters: spelled in `vocabulary` as they are, without the byte-level alphabet.
  bool has_byte_fallback() const { return byte_fallback_; }

  // Tokens as the file spells them.
  const std::unordered_map<std::string, uint32_t>& vocabulary() const { return vocabulary_; }

 private:
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  struct PairMerge {
    uint64_t pair = ~uint64_t{0};  // left id << 32 | right id; all ones: free
    uint32_t rank = kNone, id = kNone;
  };

  BytePairEncoding() = default;
  void read_merges(const JsonField& field);
  void add_merge(uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
  // The merge of two neighbours; rank kNone when there is none.
  PairMerge find_merge(uint32_t left, uint32_t right) const;
  void read_byte_level(const JsonField& field);
  void read_byte_fallback(const JsonField& field);
  uint32_t byte_id(unsigned char byte) const;
  // Calls put(id) for every byte, or character or byte without one.
  template <typename Put>
  void for_each_first_symbol(std::string_view word, Put put) const;
  void encode_uncached(std::string_view word, Scratch& scratch, std::vector<uint32_t>& ids) const;
  void merge_short(std::string_view word, std::vector<uint32_t>& ids) const;
  void merge_long(std::string_view word, Scratch& scratch, std::vector<uint32_t>& ids) const;

  std::string file_;
  std::unordered_map<std::string, uint32_t> vocabulary_;
  std::array<uint32_t, 256> byte_ids_;
  std::vector<uint32_t> num_bytes_;
  std::vector<PairMerge> merges_;  // open addressing, a power of two, at most half full
  bool byte_fallback_ = false;
  std::unordered_map<char32_t, uint32_t> characters_;  // filled for byte_fallback only
  bool ignore_merges_ = false;
  std::unordered_map<std::string, uint32_t> whole_words_;  // by bytes; filled for ignore_merges only
};

}  // namespace moraine
