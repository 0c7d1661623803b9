#include "text/tokenizer/byte_pair_encoding.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include "text/tokenizer/unicode.h"

namespace moraine {
namespace {

// GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other bytes for U+0100 on, in order.
struct Alphabet {
  std::array<char32_t, 256> character;
  std::array<int16_t, 0x144> byte;  // -1: not in the alphabet

  Alphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      character[b] = printable ? static_cast<char32_t>(b) : next++;
      byte[character[b]] = static_cast<int16_t>(b);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

uint64_t pair_key(uint32_t left, uint32_t right) { return static_cast<uint64_t>(left) << 32 | right; }

size_t slot_of(uint64_t hash, size_t table_size) {
  return (hash * 0x9E3779B97F4A7C15u) >> (64 - std::countr_zero(table_size));
}

// Words up to 8 bytes are their own key; a longer word's may collide.
uint64_t key_of(std::string_view word) {
  if (word.size() > 8) return std::hash<std::string_view>()(word);
  uint64_t key = 0;
  std::memcpy(&key, word.data(), word.size());
  return key;
}

void must_be_off(const JsonField& model, const char* name) {
  JsonField option = model[name];
  const Json& value = option.json();
  bool off = value.is_null() || value == false || value == "" || (value.is_number() && value == 0);
  if (!off) option.refuse("is set, which is not supported", "only plain byte-level BPE is, and BPE with byte_fallback");
}

constexpr size_t kLongestShortWord = 48;   // bytes; beyond it a heap is faster than looking at every pair
constexpr size_t kLongestCachedWord = 64;  // bytes
constexpr size_t kMostCachedWords = 1 << 17;

}  // namespace

std::optional<unsigned char> byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  int byte = 0;
  // The reference reads the digits as a number, which may have a sign.
  const size_t first = token[3] == '+' ? 4 : 3;
  for (size_t i = first; i < 5; ++i) {
    const char c = token[i];
    const bool is_digit = c >= '0' && c <= '9', is_letter = (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f');
    if (!is_digit && !is_letter) return std::nullopt;
    byte = byte * 16 + (is_digit ? c - '0' : (c | 0x20) - 'a' + 10);
  }
  return static_cast<unsigned char>(byte);
}

std::optional<std::string> byte_level_bytes(std::string_view token) {
  const Alphabet& a = alphabet();
  std::string out;
  out.reserve(token.size());
  for (size_t at = 0; at < token.size();) {
    char32_t c = next_code_point(token, at);
    if (c >= a.byte.size() || a.byte[c] < 0) return std::nullopt;
    out.push_back(static_cast<char>(a.byte[c]));
  }
  return out;
}

BytePairEncoding BytePairEncoding::from_json(const JsonField& field) {
  if (JsonField type = field["type"]; !type.is_null() && type.string() != "BPE") {
    type.refuse(fmt::format("is \"{}\"", type.string()),
                "supported are tokenizers of byte-level BPE and of BPE with byte_fallback");
  }
  for (const char* name : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) must_be_off(field, name);

  BytePairEncoding out;
  out.file_ = field.file();
  JsonField vocab = field["vocab"];
  if (!vocab.json().is_object()) vocab.refuse("must be an object");
  out.vocabulary_.reserve(vocab.json().size());
  uint32_t num_ids = 0;
  for (const auto& [token, id] : vocab.json().items()) {
    if (!id.is_number_unsigned()) vocab[token.c_str()].token_id();  // refuses it by name
    if (id.get<uint64_t>() >= uint64_t{1} << 24) vocab[token.c_str()].token_id();
    out.vocabulary_.emplace(token, id.get<uint32_t>());
    num_ids = std::max(num_ids, id.get<uint32_t>() + 1);
  }
  std::vector<uint8_t> taken(num_ids, 0);
  for (const auto& [token, id] : out.vocabulary_) {
    if (taken[id]++) vocab.refuse(fmt::format("gives the id {} to two tokens", id));
  }
  out.ignore_merges_ = field["ignore_merges"].boolean(false);
  out.byte_fallback_ = field["byte_fallback"].boolean(false);
  out.num_bytes_.assign(num_ids, 0);
  out.byte_ids_.fill(kNone);
  out.byte_fallback_ ? out.read_byte_fallback(field) : out.read_byte_level(field);
  out.read_merges(field["merges"]);
  return out;
}

void BytePairEncoding::read_byte_level(const JsonField& field) {
  for (const auto& [token, id] : vocabulary_) {
    std::optional<std::string> bytes = byte_level_bytes(token);
    if (!bytes) continue;
    num_bytes_[id] = static_cast<uint32_t>(bytes->size());
    if (bytes->size() == 1) byte_ids_[static_cast<unsigned char>((*bytes)[0])] = id;
    if (ignore_merges_) whole_words_.emplace(*bytes, id);
  }
  // With a token for every byte an unknown token is never used.
  if (std::find(byte_ids_.begin(), byte_ids_.end(), kNone) != byte_ids_.end()) must_be_off(field, "unk_token");
}

void BytePairEncoding::read_byte_fallback(const JsonField& field) {
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    const std::string token = fmt::format("<0x{:02X}>", byte);
    auto entry = vocabulary_.find(token);
    // With a token for every byte neither unk_token nor fuse_unk matters.
    if (entry == vocabulary_.end()) {
      field["byte_fallback"].refuse(fmt::format("is set, but model.vocab lacks {}", token),
                                    "it must have a token for every byte, <0x00> to <0xFF>");
    }
    byte_ids_[byte] = entry->second;
  }
  for (const auto& [token, id] : vocabulary_) {
    num_bytes_[id] = static_cast<uint32_t>(token.size());
    if (token.empty()) continue;
    size_t end = 0;
    const char32_t first = next_code_point(token, end);
    if (end == token.size()) characters_.emplace(first, id);
    if (ignore_merges_) whole_words_.emplace(token, id);
  }
  for (uint32_t id : byte_ids_) num_bytes_[id] = 1;
}

void BytePairEncoding::read_merges(const JsonField& field) {
  const Json& merges = field.json();
  if (!merges.is_array()) field.refuse("must be an array");
  merges_.resize(std::bit_ceil(merges.size() * 2 + 2));
  auto refuse = [&](size_t i, const std::string& what) { field.refuse(fmt::format("({}th) {}", i, what)); };
  std::string left, right;
  uint32_t rank = 0;
  for (size_t i = 0; i < merges.size(); ++i) {
    const Json& merge = merges[i];
    if (merge.is_string()) {
      const std::string& line = merge.get_ref<const std::string&>();
      if (line.starts_with("#version")) continue;
      size_t space = line.find(' ');
      if (space == line.npos || line.find(' ', space + 1) != line.npos) refuse(i, "is not two tokens");
      left.assign(line, 0, space);
      right.assign(line, space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get_ref<const std::string&>();
      right = merge[1].get_ref<const std::string&>();
    } else {
      refuse(i, "is not two tokens");
    }
    auto id_of = [&](const std::string& token) {
      auto it = vocabulary_.find(token);
      if (it == vocabulary_.end()) refuse(i, fmt::format("names \"{}\", which model.vocab lacks", token));
      return it->second;
    };
    uint32_t left_id = id_of(left), right_id = id_of(right), id = id_of(left + right);
    if (byte_fallback_) {
      // A token would stand for its letters in one place and for a byte in another.
      for (const uint32_t of : {left_id, right_id, id}) {
        if (std::find(byte_ids_.begin(), byte_ids_.end(), of) != byte_ids_.end())
          refuse(i, "merges a byte's token, which is not supported");
      }
    }
    add_merge(left_id, right_id, rank++, id);
  }
}

void BytePairEncoding::add_merge(uint32_t left, uint32_t right, uint32_t rank, uint32_t id) {
  uint64_t pair = pair_key(left, right);
  size_t slot = slot_of(pair, merges_.size());
  while (merges_[slot].rank != kNone && merges_[slot].pair != pair) slot = (slot + 1) & (merges_.size() - 1);
  merges_[slot] = {pair, rank, id};  // of a pair given twice the last counts
}

BytePairEncoding::PairMerge BytePairEncoding::find_merge(uint32_t left, uint32_t right) const {
  uint64_t pair = pair_key(left, right);
  for (size_t slot = slot_of(pair, merges_.size());; slot = (slot + 1) & (merges_.size() - 1)) {
    const PairMerge& merge = merges_[slot];
    if (merge.pair == pair || merge.rank == kNone) return merge;
  }
}

uint32_t BytePairEncoding::byte_id(unsigned char byte) const {
  uint32_t id = byte_ids_[byte];
  if (id == kNone) throw input_error(file_, fmt::format("the vocabulary has no token for the byte 0x{:02X}", byte));
  return id;
}

void BytePairEncoding::Scratch::clear() {
  entries.assign(1 << 12, Entry{});
  used = 0;
  text.clear();
  ids.clear();
}

void BytePairEncoding::Scratch::grow() {
  if (used >= kMostCachedWords) return clear();
  std::vector<Entry> old(entries.size() * 2);
  old.swap(entries);
  for (const Entry& entry : old) {
    if (!entry.text_size) continue;
    size_t slot = slot_of(entry.key, entries.size());
    while (entries[slot].text_size) slot = (slot + 1) & (entries.size() - 1);
    entries[slot] = entry;
  }
}

template <typename Put>
void BytePairEncoding::for_each_first_symbol(std::string_view word, Put put) const {
  if (!byte_fallback_) {
    for (char c : word) put(byte_id(static_cast<unsigned char>(c)));
    return;
  }
  for (size_t at = 0; at < word.size();) {
    const size_t begin = at;
    auto character = characters_.find(next_code_point(word, at));
    if (character != characters_.end()) {
      put(character->second);
    } else {
      for (size_t i = begin; i < at; ++i) put(byte_ids_[static_cast<unsigned char>(word[i])]);
    }
  }
}

void BytePairEncoding::encode(std::string_view word, Scratch& scratch, std::vector<uint32_t>& ids) const {
  if (word.size() > kLongestCachedWord) return encode_uncached(word, scratch, ids);
  uint64_t key = key_of(word);
  size_t slot = slot_of(key, scratch.entries.size());
  for (; scratch.entries[slot].text_size; slot = (slot + 1) & (scratch.entries.size() - 1)) {
    const Scratch::Entry& entry = scratch.entries[slot];
    if (entry.key != key || entry.text_size != word.size()) continue;
    if (word.size() > 8 && std::memcmp(scratch.text.data() + entry.text_begin, word.data(), word.size()) != 0) continue;
    if (entry.ids_size == 1) return ids.push_back(entry.ids_begin);
    auto begin = scratch.ids.begin() + entry.ids_begin;
    ids.insert(ids.end(), begin, begin + entry.ids_size);
    return;
  }

  size_t first = ids.size();
  encode_uncached(word, scratch, ids);
  Scratch::Entry& entry = scratch.entries[slot];
  entry = {key, static_cast<uint32_t>(scratch.text.size()), static_cast<uint32_t>(scratch.ids.size()),
           static_cast<uint16_t>(word.size()), static_cast<uint16_t>(ids.size() - first)};
  if (word.size() > 8) scratch.text += word;
  if (entry.ids_size == 1) {
    entry.ids_begin = ids.back();
  } else {
    scratch.ids.insert(scratch.ids.end(), ids.begin() + static_cast<ptrdiff_t>(first), ids.end());
  }
  if (++scratch.used * 2 > scratch.entries.size()) scratch.grow();
}

void BytePairEncoding::encode_uncached(std::string_view word, Scratch& scratch, std::vector<uint32_t>& ids) const {
  if (ignore_merges_) {
    if (auto it = whole_words_.find(std::string(word)); it != whole_words_.end()) return ids.push_back(it->second);
  }
  word.size() <= kLongestShortWord ? merge_short(word, ids) : merge_long(word, scratch, ids);
}

// Both of the following apply, again and again, the merge of lowest rank, the leftmost of equals.

void BytePairEncoding::merge_short(std::string_view word, std::vector<uint32_t>& ids) const {
  std::array<uint32_t, kLongestShortWord> symbols;
  std::array<PairMerge, kLongestShortWord> merges;  // of symbol i and i + 1
  size_t size = 0;
  for_each_first_symbol(word, [&](uint32_t id) { symbols[size++] = id; });
  for (size_t i = 0; i + 1 < size; ++i) merges[i] = find_merge(symbols[i], symbols[i + 1]);
  while (size > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < size; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == kNone) break;
    symbols[best] = merges[best].id;
    std::copy(symbols.begin() + best + 2, symbols.begin() + size, symbols.begin() + best + 1);
    std::copy(merges.begin() + best + 1, merges.begin() + (size - 1), merges.begin() + best);
    --size;
    if (best > 0) merges[best - 1] = find_merge(symbols[best - 1], symbols[best]);
    if (best + 1 < size) merges[best] = find_merge(symbols[best], symbols[best + 1]);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.begin() + static_cast<ptrdiff_t>(size));
}

void BytePairEncoding::merge_long(std::string_view word, Scratch& scratch, std::vector<uint32_t>& ids) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  auto later = [](const Scratch::Merge& a, const Scratch::Merge& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  symbols.clear();
  heap.clear();
  for_each_first_symbol(word, [&](uint32_t id) {
    const auto i = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, i - 1, i + 1, false});
  });
  symbols.back().next = -1;
  const auto size = static_cast<int32_t>(symbols.size());
  auto candidate = [&](int32_t left) {
    if (left < 0 || symbols[left].next < 0) return false;
    PairMerge merge = find_merge(symbols[left].id, symbols[symbols[left].next].id);
    if (merge.rank == kNone) return false;
    heap.push_back({merge.rank, static_cast<uint32_t>(left), merge.id});
    return true;
  };
  for (int32_t i = 0; i < size; ++i) candidate(i);
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    Scratch::Merge top = heap.back();
    heap.pop_back();
    Scratch::Symbol& left = symbols[top.position];
    if (left.removed || left.next < 0) continue;
    Scratch::Symbol& right = symbols[left.next];
    // The pair may have changed since it was queued.
    if (PairMerge now = find_merge(left.id, right.id); now.rank != top.rank || now.id != top.id) continue;
    left.id = top.id;
    left.next = right.next;
    right.removed = true;
    if (left.next >= 0) symbols[left.next].previous = static_cast<int32_t>(top.position);
    if (candidate(left.previous)) std::push_heap(heap.begin(), heap.end(), later);
    if (candidate(static_cast<int32_t>(top.position))) std::push_heap(heap.begin(), heap.end(), later);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace moraine
