#include "text/tokenizer/tokenizer.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <tuple>
#include <unordered_map>

#include "base/error.h"
#include "base/path.h"
#include "formats/folder_parts.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/unicode.h"

namespace moraine {
namespace {

std::vector<AddedToken> tokens_to_match(const TokenizerParts& parts, bool normalized) {
  std::vector<AddedToken> out;
  for (AddedToken token : parts.added_tokens) {
    if (token.normalized != normalized) continue;
    if (normalized) token.content = parts.normalizer.normalized(token.content);
    out.push_back(std::move(token));
  }
  return out;
}

}  // namespace

struct Tokenizer::Impl {
  // The buffers of one encode() at a time.
  struct Scratch {
    BytePairEncoding::Scratch bpe;
    PreTokenizer::Scratch pre_tokenizer;
    std::vector<AddedTokenMatcher::Segment> as_written, in_normalized;
    Normalizer::Scratch normalization;
    Alignment repair;
    std::vector<uint32_t> word;  // ids
  };

  explicit Impl(TokenizerParts all)
      : parts(std::move(all)), as_written(tokens_to_match(parts, false)), in_normalized(tokens_to_match(parts, true)) {
    auto put = [&](uint32_t id, std::string token) {
      if (id >= bytes.size()) bytes.resize(id + 1), spelled.resize(id + 1), special.resize(id + 1, 0);
      bytes[id] = parts.decoder.bytes(token);
      spelled[id] = parts.model.has_byte_fallback() ? std::move(token) : "";
    };
    for (const auto& [token, id] : parts.model.vocabulary()) put(id, token);
    for (const AddedToken& token : parts.added_tokens) {
      added_ids.emplace(token.content, token.id);
      put(token.id, token.normalized ? parts.normalizer.normalized(token.content) : token.content);
      special[token.id] = token.special;
    }
  }

  TokenizerParts parts;
  AddedTokenMatcher as_written, in_normalized;
  std::unordered_map<std::string, uint32_t> added_ids;  // by content as in the file
  std::vector<std::string> bytes;                       // by id
  std::vector<std::string> spelled;                     // by id; empty where `bytes` is enough to decode
  std::vector<uint8_t> special;                         // by id

  // Idle scratches: encode() may run on several threads at once, and word caches stay warm.
  std::mutex mutex;
  std::vector<std::unique_ptr<Scratch>> idle;

  std::unique_ptr<Scratch> take_scratch() {
    std::lock_guard lock(mutex);
    if (idle.empty()) return std::make_unique<Scratch>();
    std::unique_ptr<Scratch> out = std::move(idle.back());
    idle.pop_back();
    return out;
  }
  void give_back(std::unique_ptr<Scratch> scratch) {
    std::lock_guard lock(mutex);
    idle.push_back(std::move(scratch));
  }

  // One encode(). Positions go back through: a word's text with prefix spaces, normalised text, repaired text, the text
  // as given.
  class Encoder {
   public:
    Encoder(const Impl& impl, Scratch& scratch, const PlainParts& plain, Encoding& out)
        : impl_(impl), scratch_(scratch), plain_(plain), out_(out) {}

    void encode(std::string_view text) {
      AddedTokenMatcher::Allows allows;
      if (!plain_.ranges.empty()) {
        allows = [this](const AddedToken& token, size_t begin, size_t end) { return is_allowed(token, begin, end); };
      }
      impl_.as_written.find(text, scratch_.as_written, allows);
      for (const auto& segment : scratch_.as_written) {
        if (segment.token) {
          put(segment.token->id, segment.begin, segment.end);
        } else {
          encode_plain(text.substr(segment.begin, segment.end - segment.begin), segment.begin);
        }
      }
    }

   private:
    // `begin` and `end` are of the repaired text.
    bool is_allowed(const AddedToken& token, size_t begin, size_t end) const {
      if (!token.special && std::find(plain_.more.begin(), plain_.more.end(), token.id) == plain_.more.end())
        return true;
      if (!scratch_.repair.empty()) std::tie(begin, end) = scratch_.repair.to_source(begin, end);
      const auto part = std::upper_bound(plain_.ranges.begin(), plain_.ranges.end(), begin,
                                         [](size_t at, const auto& range) { return at < range.second; });
      return part == plain_.ranges.end() || part->first >= end;
    }

    // Text between added tokens, at `base` of the repaired text.
    void encode_plain(std::string_view text, size_t base) {
      const std::string_view normalized = impl_.parts.normalizer.normalize(text, scratch_.normalization);
      AddedTokenMatcher::Allows allows;
      if (!plain_.ranges.empty()) {
        allows = [this, base](const AddedToken& token, size_t first, size_t last) {
          const auto [begin, end] = scratch_.normalization.to_source(first, last);
          return is_allowed(token, base + begin, base + end);
        };
      }
      impl_.in_normalized.find(normalized, scratch_.in_normalized, allows);
      for (const auto& segment : scratch_.in_normalized) {
        if (segment.token) {
          auto [begin, end] = scratch_.normalization.to_source(segment.begin, segment.end);
          put(segment.token->id, base + begin, base + end);
        } else {
          encode_words(normalized.substr(segment.begin, segment.end - segment.begin), segment.begin, base);
        }
      }
    }

    // Text without added tokens, at `normalized_base` of the normalised text of the segment at `base`.
    void encode_words(std::string_view text, size_t normalized_base, size_t base) {
      PreTokenizer::Scratch& pieces = scratch_.pre_tokenizer;
      std::string_view prefixed = impl_.parts.pre_tokenizer.split(text, normalized_base + base == 0, pieces);
      bool straight = pieces.alignment.empty() && scratch_.normalization.changed_nothing();
      for (auto [first, last] : pieces.pieces) {
        scratch_.word.clear();
        impl_.parts.model.encode(prefixed.substr(first, last - first), scratch_.bpe, scratch_.word);
        size_t begin = first;
        for (uint32_t id : scratch_.word) {
          size_t end = scratch_.word.size() == 1 ? last : begin + impl_.parts.model.num_bytes(id);
          if (straight) {
            put(id, base + normalized_base + begin, base + normalized_base + end);
            begin = end;
            continue;
          }
          auto [text_begin, text_end] = pieces.alignment.to_source(begin, end);
          auto [source_begin, source_end] =
              scratch_.normalization.to_source(normalized_base + text_begin, normalized_base + text_end);
          put(id, base + source_begin, base + source_end);
          begin = end;
        }
      }
    }

    // `begin` and `end` are of the repaired text.
    void put(uint32_t id, size_t begin, size_t end) {
      if (!scratch_.repair.empty()) std::tie(begin, end) = scratch_.repair.to_source(begin, end);
      out_.ids.push_back(id);
      out_.offsets.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end)});
    }

    const Impl& impl_;
    Scratch& scratch_;
    const PlainParts& plain_;
    Encoding& out_;
  };

  std::string decode(std::span<const int64_t> ids, bool skip_special) const {
    std::vector<const std::string*> tokens, token_bytes;
    for (int64_t id : ids) {
      if (id < 0 || static_cast<size_t>(id) >= bytes.size() || (skip_special && special[id])) continue;
      // No token has this id; it must not end a run of bytes.
      if (parts.model.has_byte_fallback() && spelled[id].empty()) continue;
      tokens.push_back(&spelled[id]);
      token_bytes.push_back(&bytes[id]);
    }
    return parts.decoder.decode(tokens, token_bytes);
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_file(const std::filesystem::path& tokenizer_json) {
  if (!path_exists(tokenizer_json))
    find_in_folder(tokenizer_json.parent_path(), FolderPart::kTokenizer);  // throws, saying why
  return Tokenizer(std::make_unique<Impl>(read_tokenizer_json(tokenizer_json)));
}

Tokenizer Tokenizer::from_folder(const std::filesystem::path& model_folder) {
  return Tokenizer(std::make_unique<Impl>(read_tokenizer_folder(model_folder)));
}

Encoding Tokenizer::encode(std::string_view text, const PlainParts& plain) const {
  if (text.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    throw input_error("tokenizer", "a text of more than 2 GiB", "cut it into several rows");
  }
  Encoding out;
  out.ids.reserve(text.size() / 4 + 4);
  out.offsets.reserve(text.size() / 4 + 4);
  std::unique_ptr<Impl::Scratch> scratch = impl_->take_scratch();
  scratch->repair.clear();
  std::string repaired;
  if (!is_valid_utf8(text)) {
    repaired = repair_utf8(text, &scratch->repair);
    text = repaired;
  }
  Impl::Encoder(*impl_, *scratch, plain, out).encode(text);
  impl_->give_back(std::move(scratch));
  return out;
}

std::vector<int64_t> Tokenizer::added_tokens_in(std::string_view text) const {
  std::vector<int64_t> found;
  for (const AddedTokenMatcher* matcher : {&impl_->as_written, &impl_->in_normalized}) {
    std::vector<AddedTokenMatcher::Segment> segments;
    matcher->find(text, segments);
    for (const auto& segment : segments) {
      if (segment.token != nullptr && std::find(found.begin(), found.end(), segment.token->id) == found.end())
        found.push_back(segment.token->id);
    }
  }
  return found;
}

std::string Tokenizer::decode(std::span<const int64_t> ids) const { return impl_->decode(ids, false); }

std::string Tokenizer::decode_skipping_special(std::span<const int64_t> ids) const { return impl_->decode(ids, true); }

std::string Tokenizer::bytes_of(int64_t id) const {
  return id >= 0 && static_cast<size_t>(id) < impl_->bytes.size() ? impl_->bytes[static_cast<size_t>(id)] : "";
}

int64_t Tokenizer::token_to_id(std::string_view token) const {
  std::string key(token);
  if (auto it = impl_->added_ids.find(key); it != impl_->added_ids.end()) return it->second;
  const auto& vocabulary = impl_->parts.model.vocabulary();
  auto it = vocabulary.find(key);
  return it == vocabulary.end() ? -1 : static_cast<int64_t>(it->second);
}

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(impl_->bytes.size()); }

}  // namespace moraine
