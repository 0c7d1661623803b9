// Tokens that are found in the text as they are written, before byte-pair encoding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moraine {

struct AddedToken {
  uint32_t id = 0;
  std::string content;
  bool single_word = false;  // no match within a word
  bool lstrip = false;       // takes the white space on its left along
  bool rstrip = false;       // … on its right
  bool normalized = false;   // matched against normalised text
  bool special = false;      // left out by decode_skipping_special
};

// Finds a set of added tokens: from left to right, the longest that begins at a place.
class AddedTokenMatcher {
 public:
  // `tokens` as they shall be matched: the content of a `normalized` one is normalised already, and never empty.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  struct Segment {
    const AddedToken* token;  // null: plain text
    size_t begin, end;
  };
  // `text` cut into tokens and plain text, in order and without gaps. (As in the reference, segments overlap where
  // white space that an rstrip took belongs to the next token too.) A token is passed over where `allows`, given its
  // own bytes [begin, end), says no.
  using Allows = std::function<bool(const AddedToken& token, size_t begin, size_t end)>;
  void find(std::string_view text, std::vector<Segment>& out, const Allows& allows = nullptr) const;

 private:
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  struct Node {
    uint32_t token = kNone;                                // the one that ends here
    std::vector<std::pair<unsigned char, uint32_t>> next;  // byte → node
  };
  // The longest token at `at`, or null.
  const AddedToken* longest_at(std::string_view text, size_t at, const Allows& allows) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;     // a trie; [0] is the root
  std::vector<uint32_t> root_;  // the root's children by byte
};

}  // namespace moraine
