#include "text/tokenizer/tokenizer_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "base/error.h"
#include "base/path.h"
#include "base/text.h"
#include "text/tokenizer/input_notes.h"
#include "text/tokenizer/json_field.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

// Which of transformers' classes reads a folder, as far as it matters.
enum class Reader {
  kGeneric,  // takes tokenizer.json as it is and adds tokens to it
  kQwen2,    // takes vocabulary and merges from it, all else from its own code and the other files
  kQwen3_5,  // the same with another regex
  kUnknown,  // another class, whose own code nobody knows here
};

// What Qwen2Tokenizer and Qwen3_5Tokenizer split text by.
constexpr const char* kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen3_5Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

const std::vector<std::string> kNamedTokens{"bos_token", "eos_token", "unk_token", "sep_token",
                                            "pad_token", "cls_token", "mask_token"};

Json read_object(const fs::path& path) {
  if (!path_exists(path)) return Json::object();
  Json json = read_json_file(path);
  if (!json.is_object()) throw input_error(path.string(), "not a JSON object");
  return json;
}

std::string text_at(const Json& object, const char* key) {
  auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

std::string without_fast(std::string name) {
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  return name;
}

Reader reader_of(const std::string& class_name) {
  const std::string name = without_fast(class_name);
  if (name == "Qwen2Tokenizer") return Reader::kQwen2;
  if (name == "Qwen3_5Tokenizer") return Reader::kQwen3_5;
  for (const char* generic : {"TokenizersBackend", "PreTrainedTokenizer", "PythonBackend"}) {
    if (name == generic) return Reader::kGeneric;
  }
  return Reader::kUnknown;
}

// AutoTokenizer's choice: the model's own class where the names in checkpoints are known to be wrong, else the one they
// name.
Reader find_reader(const Json& tokenizer_config, const Json& config) {
  std::string named = text_at(tokenizer_config, "tokenizer_class");
  if (named.empty()) named = text_at(config, "tokenizer_class");
  const std::string model_type = text_at(config, "model_type");
  if (model_type == "qwen3_5_moe" || model_type == "qwen3_5_moe_text") return Reader::kQwen3_5;
  if (model_type == "deepseek_v4") return Reader::kGeneric;
  if (named.empty()) return model_type == "qwen3_moe" ? Reader::kQwen2 : Reader::kGeneric;
  return reader_of(named);
}

// A token of tokenizer_config.json or special_tokens_map.json: text, or an object of content and flags.
AddedToken read_token(const JsonField& field, bool is_special) {
  AddedToken token;
  token.special = is_special;
  if (field.json().is_string()) {
    token.content = field.string();
    token.normalized = !is_special;
    return token;
  }
  token.content = field["content"].string();
  token.single_word = field["single_word"].boolean(false);
  token.lstrip = field["lstrip"].boolean(false);
  token.rstrip = field["rstrip"].boolean(false);
  token.special = is_special || field["special"].boolean(false);
  token.normalized = field["normalized"].boolean(!token.special);
  return token;
}

bool same_token(const AddedToken& a, const AddedToken& b) {
  return a.content == b.content && a.single_word == b.single_word && a.lstrip == b.lstrip && a.rstrip == b.rstrip &&
         a.normalized == b.normalized && a.special == b.special;
}

// The added tokens while they are put together.
class Tokens {
 public:
  Tokens(std::vector<AddedToken> tokens, const BytePairEncoding& model) : tokens_(std::move(tokens)), model_(model) {
    for (const AddedToken& token : tokens_) end_ = std::max(end_, token.id + 1);
  }

  const AddedToken* find(const std::string& content) const {
    auto it =
        std::find_if(tokens_.begin(), tokens_.end(), [&](const AddedToken& token) { return token.content == content; });
    return it == tokens_.end() ? nullptr : &*it;
  }

  // A token that is there already takes these flags. Returns its id.
  uint32_t add(AddedToken token) {
    token.id = id_for(token.content);
    end_ = std::max(end_, token.id + 1);
    std::erase_if(tokens_, [&](const AddedToken& before) { return before.id == token.id; });
    tokens_.push_back(std::move(token));
    return tokens_.back().id;
  }

  std::vector<AddedToken> take() { return std::move(tokens_); }

 private:
  uint32_t id_for(const std::string& content) const {
    if (const AddedToken* known = find(content)) return known->id;
    const auto& vocabulary = model_.vocabulary();
    if (auto entry = vocabulary.find(content); entry != vocabulary.end()) return entry->second;
    return std::max(end_, static_cast<uint32_t>(vocabulary.size()));
  }

  std::vector<AddedToken> tokens_;
  const BytePairEncoding& model_;
  uint32_t end_ = 0;  // behind the largest id of an added token
};

// A token with the id that a file says.
struct Placed {
  AddedToken token;
  std::string where;  // the file and field
};
using PlacedTokens = std::map<uint32_t, Placed>;

PlacedTokens read_decoder(const JsonField& decoder) {
  PlacedTokens tokens;
  if (!decoder.json().is_object()) decoder.refuse("must be an object");
  for (const auto& [key, value] : decoder.json().items()) {
    const bool is_id = !key.empty() && key.size() < 9 && key.find_first_not_of("0123456789") == key.npos;
    if (!is_id) decoder.refuse(fmt::format("has the key {}, which is no token id", quote_text(key)));
    const JsonField entry = decoder[key.c_str()];
    if (!value.is_object()) entry.refuse("must be an object");
    const auto id = static_cast<uint32_t>(std::stoul(key));
    tokens[id] = {read_token(entry, false), entry.file() + ": " + entry.path()};
  }
  return tokens;
}

// The special tokens that files name, in transformers' order: named ones, a model's own, further ones.
class SpecialTokens {
 public:
  void read(const Json& json, const std::string& file) {
    const JsonField root(json, file);
    for (const auto& [key, value] : json.items()) {
      const JsonField field = root[key.c_str()];
      if (key == "extra_special_tokens") {
        read_extra(field);
      } else if (key == "additional_special_tokens") {
        continue;
      } else if (key.ends_with("_token") && (value.is_string() || (value.is_object() && value.contains("content")))) {
        named_[key] = read_token(field, true);
      } else if (value.is_null()) {
        named_.erase(key);
      }
    }
    // The older name of the key counts where the newer one says nothing.
    const bool again_empty = extra_ && extra_->empty() && json.contains("extra_special_tokens");
    if (json.contains("additional_special_tokens") && (!extra_ || again_empty))
      read_extra(root["additional_special_tokens"]);
  }
  void set_default(const char* key, const char* content) {
    AddedToken token;
    token.content = content;
    token.special = true;
    named_.try_emplace(key, token);
  }

  std::vector<AddedToken> all() const {
    std::vector<AddedToken> tokens;
    for (const std::string& key : kNamedTokens) {
      if (auto it = named_.find(key); it != named_.end()) tokens.push_back(it->second);
    }
    for (const auto& [key, token] : named_) {
      if (std::find(kNamedTokens.begin(), kNamedTokens.end(), key) == kNamedTokens.end()) tokens.push_back(token);
    }
    if (extra_) tokens.insert(tokens.end(), extra_->begin(), extra_->end());
    return tokens;
  }

 private:
  void read_extra(const JsonField& field) {
    if (field.is_null()) return;
    if (field.json().is_object()) {
      for (const auto& [name, value] : field.json().items()) named_[name] = read_token(field[name.c_str()], true);
      return;
    }
    if (!extra_) extra_.emplace();
    for (const JsonField& item : field.items()) extra_->push_back(read_token(item, true));
  }

  std::map<std::string, AddedToken> named_;
  std::optional<std::vector<AddedToken>> extra_;
};

// Whether text is split as `reader`'s own code would.
bool splits_as(Reader reader, const Json& tokenizer_json, bool prefix_space) {
  const std::string regex = reader == Reader::kQwen3_5 ? kQwen3_5Regex : kQwen2Regex;
  const auto at = [](const Json& json, const char* pointer) {
    const Json::json_pointer place(pointer);
    return json.contains(place) ? json.at(place) : Json();
  };
  const Json steps = at(tokenizer_json, "/pre_tokenizer/pretokenizers");
  return at(tokenizer_json, "/normalizer/type") == "NFC" && steps.is_array() && steps.size() == 2 &&
         at(steps, "/0/type") == "Split" && at(steps, "/0/pattern/Regex") == regex &&
         at(steps, "/0/behavior") == "Isolated" && at(steps, "/1/type") == "ByteLevel" &&
         at(steps, "/1/use_regex") == false && at(steps, "/1/add_prefix_space") == prefix_space;
}

void note_other_splitting(Reader reader, const Json& tokenizer_config, const Json& tokenizer_json,
                          const fs::path& folder) {
  if (reader == Reader::kGeneric) return;
  const std::string where = (folder / "tokenizer.json").string();
  if (reader == Reader::kUnknown) {
    note_about_input(fmt::format(
        "{}: followed as it is; transformers' {}, which tokenizer_config.json names, may split text otherwise", where,
        quote_text(text_at(tokenizer_config, "tokenizer_class"))));
    return;
  }
  const bool prefix_space = tokenizer_config.value("add_prefix_space", Json()) == true;
  if (splits_as(reader, tokenizer_json, prefix_space)) return;
  note_about_input(fmt::format("{}: followed as it is; transformers' {} splits text by its own rules, which are others",
                               where, reader == Reader::kQwen2 ? "Qwen2Tokenizer" : "Qwen3_5Tokenizer"));
}

void refuse_what_changes_ids(const Json& tokenizer_config, const std::string& file) {
  if (tokenizer_config.value("split_special_tokens", Json()) == true) {
    throw input_error(file, "split_special_tokens is true: special tokens would be trained in pieces",
                      "remove the key");
  }
  for (const Json& name : tokenizer_config.value("fast_tokenizer_files", Json::array())) {
    if (name != "tokenizer.json") {
      throw input_error(file, "fast_tokenizer_files names other files than tokenizer.json",
                        "remove the key if tokenizer.json is the one to use");
    }
  }
}

}  // namespace

std::vector<AddedToken> tokens_of_folder(std::vector<AddedToken> in_file, const BytePairEncoding& model,
                                         const Json& tokenizer_json, const fs::path& folder) {
  const fs::path config_file = folder / "tokenizer_config.json";
  const Json tokenizer_config = read_object(config_file), config = read_object(folder / "config.json");
  refuse_what_changes_ids(tokenizer_config, config_file.string());
  const Reader reader = find_reader(tokenizer_config, config);
  note_other_splitting(reader, tokenizer_config, tokenizer_json, folder);

  SpecialTokens special;
  special.read(tokenizer_config, config_file.string());
  PlacedTokens placed;
  const bool has_decoder = tokenizer_config.contains("added_tokens_decoder");
  if (has_decoder) {
    placed = read_decoder(JsonField(tokenizer_config, config_file.string())["added_tokens_decoder"]);
  } else {
    const fs::path map_file = folder / "special_tokens_map.json", added_file = folder / "added_tokens.json";
    special.read(read_object(map_file), map_file.string());
    const Json added = read_object(added_file);
    const JsonField root(added, added_file.string());
    std::set<std::string> special_contents;
    for (const AddedToken& token : special.all()) special_contents.insert(token.content);
    for (const auto& [content, value] : added.items()) {
      AddedToken token;
      token.content = content;
      token.special = special_contents.contains(content);
      token.normalized = !token.special;
      placed[root[content.c_str()].token_id()] = {token, added_file.string()};
    }
    for (const AddedToken& token : in_file) placed[token.id] = {token, (folder / "tokenizer.json").string()};
  }
  if (reader == Reader::kQwen2 || reader == Reader::kQwen3_5) {
    for (const char* key : {"unk_token", "eos_token", "pad_token"}) {
      if (!tokenizer_config.contains(key)) special.set_default(key, "<|endoftext|>");
    }
    for (const AddedToken& token : in_file) {
      const bool known = std::any_of(placed.begin(), placed.end(),
                                     [&](const auto& entry) { return entry.second.token.content == token.content; });
      if (known) continue;
      throw input_error(
          config_file.string(),
          fmt::format("added_tokens_decoder lacks {}, which tokenizer.json adds", quote_text(token.content)),
          fmt::format("transformers would not know it as a token; add it there with id {}", token.id));
    }
  }

  Tokens tokens(in_file, model);
  for (const auto& [id, entry] : placed) {
    if (entry.token.content.empty()) continue;
    const AddedToken* known = tokens.find(entry.token.content);
    if (known != nullptr && known->id == id && same_token(*known, entry.token)) continue;
    if (const uint32_t got = tokens.add(entry.token); got != id) {
      throw input_error(entry.where,
                        fmt::format("the token {} has id {}, but the other files leave {} for it",
                                    quote_text(entry.token.content), id, got),
                        "the tokenizer's files do not belong together");
    }
  }
  // Of several with the same content the last one's flags count.
  std::vector<AddedToken> lacking = special.all();
  std::erase_if(
      lacking, [&](const AddedToken& token) { return token.content.empty() || tokens.find(token.content) != nullptr; });
  for (const AddedToken& token : lacking) tokens.add(token);
  if (reader == Reader::kQwen2) {
    for (AddedToken token : special.all()) {
      if (token.content.empty()) continue;
      AddedToken plain;
      plain.content = token.content;
      plain.special = true;
      tokens.add(plain);
    }
  }
  return tokens.take();
}

}  // namespace moraine
