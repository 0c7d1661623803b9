#include "text/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <unordered_map>

#include "base/json.h"
#include "text/tokenizer/json_field.h"
#include "text/tokenizer/tokenizer_config.h"

namespace moraine {
namespace {

// The reference library gives a token that the vocabulary lacks the next free id, whatever the file says.
std::vector<AddedToken> read_added_tokens(const JsonField& field, const BytePairEncoding& model) {
  std::vector<AddedToken> out;
  if (field.is_null()) return out;
  const auto& vocabulary = model.vocabulary();
  auto vocabulary_size = static_cast<uint32_t>(vocabulary.size());
  uint32_t next_id = vocabulary_size;
  std::unordered_map<std::string, uint32_t> seen;
  for (const JsonField& item : field.items()) {
    AddedToken token;
    token.id = item["id"].token_id();
    token.content = item["content"].string();
    token.single_word = item["single_word"].boolean();
    token.lstrip = item["lstrip"].boolean();
    token.rstrip = item["rstrip"].boolean();
    token.normalized = item["normalized"].boolean();
    token.special = item["special"].boolean();
    if (token.content.empty()) continue;
    uint32_t id;
    if (auto known = seen.find(token.content); known != seen.end()) {
      id = known->second;
    } else if (auto entry = vocabulary.find(token.content); entry != vocabulary.end()) {
      id = entry->second;
    } else {
      id = next_id++;
    }
    if (id != token.id) {
      item["id"].refuse(fmt::format("is {}, but the tokens before leave {} for \"{}\"", token.id, id, token.content),
                        "added tokens must be in the order of their ids, without gaps");
    }
    if (!seen.emplace(token.content, id).second) {
      // Given twice: the later entry counts.
      std::erase_if(out, [&](const AddedToken& before) { return before.id == id; });
    }
    out.push_back(std::move(token));
  }
  return out;
}

TokenizerParts read_parts(const Json& document, const std::filesystem::path& path) {
  JsonField root(document, path.string());
  if (JsonField version = root["version"]; !version.is_null() && version.string() != "1.0") {
    version.refuse(fmt::format("is \"{}\"", version.string()), "only version 1.0 is supported");
  }
  BytePairEncoding model = BytePairEncoding::from_json(root["model"]);
  const bool byte_fallback = model.has_byte_fallback();
  Normalizer normalizer = Normalizer::from_json(root["normalizer"]);
  PreTokenizer pre_tokenizer = PreTokenizer::from_json(root["pre_tokenizer"], byte_fallback);
  TokenDecoder decoder = TokenDecoder::from_json(root["decoder"], byte_fallback);
  std::vector<AddedToken> added = read_added_tokens(root["added_tokens"], model);
  return {std::move(model), std::move(pre_tokenizer), std::move(normalizer), std::move(decoder), std::move(added)};
}

}  // namespace

TokenizerParts read_tokenizer_json(const std::filesystem::path& path) { return read_parts(read_json_file(path), path); }

TokenizerParts read_tokenizer_folder(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "tokenizer.json";
  const Json document = read_json_file(path);
  TokenizerParts parts = read_parts(document, path);
  parts.added_tokens = tokens_of_folder(std::move(parts.added_tokens), parts.model, document, folder);
  return parts;
}

}  // namespace moraine
