#include "text/tokenizer/added_tokens.h"

#include <algorithm>

#include "text/tokenizer/unicode.h"

namespace moraine {
namespace {

bool word_character_before(std::string_view text, size_t at) {
  if (at == 0) return false;
  size_t begin = previous_code_point(text, at);
  return is_word_character(next_code_point(text, begin));
}

bool word_character_at(std::string_view text, size_t at) {
  return at < text.size() && is_word_character(next_code_point(text, at));
}

// Where the white space that ends at `at` begins, but not before `limit`.
size_t white_space_begin(std::string_view text, size_t at, size_t limit) {
  while (at > limit) {
    size_t begin = previous_code_point(text, at), end = begin;
    if (!is_white_space(next_code_point(text, end))) break;
    at = begin;
  }
  return at;
}

size_t white_space_end(std::string_view text, size_t at) {
  while (at < text.size()) {
    size_t end = at;
    if (!is_white_space(next_code_point(text, end))) break;
    at = end;
  }
  return at;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)), nodes_(1), root_(256, kNone) {
  for (uint32_t i = 0; i < tokens_.size(); ++i) {
    uint32_t node = 0;
    for (char c : tokens_[i].content) {
      auto byte = static_cast<unsigned char>(c);
      auto& next = nodes_[node].next;
      auto it = std::find_if(next.begin(), next.end(), [&](const auto& child) { return child.first == byte; });
      if (it != next.end()) {
        node = it->second;
        continue;
      }
      auto child = static_cast<uint32_t>(nodes_.size());
      next.push_back({byte, child});
      nodes_.emplace_back();
      node = child;
    }
    nodes_[node].token = i;
  }
  for (auto [byte, node] : nodes_[0].next) root_[byte] = node;
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, size_t at, const Allows& allows) const {
  const size_t begin = at;
  uint32_t node = root_[static_cast<unsigned char>(text[at])], token = kNone;
  while (node != kNone) {
    const uint32_t ends = nodes_[node].token;
    if (ends != kNone && (!allows || allows(tokens_[ends], begin, at + 1))) token = ends;
    if (++at == text.size()) break;
    auto byte = static_cast<unsigned char>(text[at]);
    const auto& next = nodes_[node].next;
    auto it = std::find_if(next.begin(), next.end(), [&](const auto& child) { return child.first == byte; });
    node = it == next.end() ? kNone : it->second;
  }
  return token == kNone ? nullptr : &tokens_[token];
}

void AddedTokenMatcher::find(std::string_view text, std::vector<Segment>& out, const Allows& allows) const {
  out.clear();
  size_t done = 0;
  for (size_t at = 0; !tokens_.empty() && at < text.size();) {
    const AddedToken* token = longest_at(text, at, allows);
    if (!token) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->content.size();
    at = end;  // the search goes on here, whatever becomes of the match
    if (token->single_word && (word_character_before(text, begin) || word_character_at(text, end))) continue;
    if (token->lstrip) begin = std::max(white_space_begin(text, begin, std::min(done, begin)), std::min(done, end));
    if (token->rstrip) end = white_space_end(text, end);
    if (done < begin) out.push_back({nullptr, done, begin});
    out.push_back({token, begin, end});
    done = end;
  }
  if (done < text.size()) out.push_back({nullptr, done, text.size()});
}

}  // namespace moraine
