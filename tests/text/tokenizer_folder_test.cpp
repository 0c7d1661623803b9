// Tokens that the files beside tokenizer.json add; expected ids are those of transformers' AutoTokenizer.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/chats.h"

namespace moraine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Json token(const std::string& content, Json flags = Json::object()) {
  Json json{{"content", content}, {"single_word", false}, {"lstrip", false},
            {"rstrip", false},    {"normalized", false},  {"special", true}};
  json.update(flags);
  return json;
}

// A folder whose tokenizer.json has every byte as a token and <s> as 256.
class TokenizerFolder : public testing::Test {
 protected:
  TokenizerFolder() {
    Json vocab;
    for (int b = 0; b < 256; ++b) vocab[byte_character(b)] = b;
    Json start = token("<s>");
    start["id"] = 256;
    tokenizer_ = {{"version", "1.0"},
                  {"added_tokens", {start}},
                  {"normalizer", nullptr},
                  {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}},
                  {"decoder", {{"type", "ByteLevel"}}},
                  {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
    config_ = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  }

  Tokenizer load() {
    folder_.write("tokenizer.json", tokenizer_.dump());
    folder_.write("tokenizer_config.json", config_.dump());
    return Tokenizer::from_folder(folder_.path);
  }
  std::vector<int64_t> ids(const std::string& text) { return load().encode(text).ids; }
  std::string error() {
    return error_of([&] { load(); });
  }

  Folder folder_;
  Json tokenizer_, config_;
};

TEST_F(TokenizerFolder, TokensOfTheConfigAreTokens) {
  EXPECT_THAT(ids("<s><e>"), ElementsAre(256, '<', 'e', '>'));
  config_["added_tokens_decoder"] = {{"257", token("<e>")},
                                     {"258", token("<f>", {{"lstrip", true}, {"special", false}})}};
  EXPECT_THAT(ids("<s> <e> <f>"), ElementsAre(256, ' ', 257, 258));
  const Tokenizer tokenizer = load();
  EXPECT_EQ(tokenizer.token_to_id("<f>"), 258);
  EXPECT_EQ(tokenizer.vocab_size(), 259);
  EXPECT_EQ(tokenizer.decode_skipping_special(std::vector<int64_t>{256, 257, 258}), "<f>");
  // Flags there count for tokens of tokenizer.json too.
  config_["added_tokens_decoder"]["256"] = token("<s>", {{"rstrip", true}});
  EXPECT_THAT(ids("<s> <e>"), ElementsAre(256, 257));
}

TEST_F(TokenizerFolder, TokensOfTheOlderFiles) {
  folder_.write("added_tokens.json", R"({"<f>": 258, "<e>": 257})");
  EXPECT_THAT(ids("<s><e><f>"), ElementsAre(256, 257, 258));
  EXPECT_EQ(load().decode_skipping_special(std::vector<int64_t>{257, 258}), "<e><f>");
  folder_.write("special_tokens_map.json", R"({"eos_token": "<e>", "additional_special_tokens": ["<x>"]})");
  EXPECT_THAT(ids("<e><x>"), ElementsAre(257, 259));
  EXPECT_EQ(load().decode_skipping_special(std::vector<int64_t>{257, 258}), "<f>");
  // They are not read beside a list in the config.
  config_["added_tokens_decoder"] = {{"256", token("<s>")}};
  EXPECT_THAT(ids("<e>"), ElementsAre('<', 'e', '>'));
}

TEST_F(TokenizerFolder, SpecialTokensThatAreNamedAreTokens) {
  config_.update({{"pad_token", "[PAD]"},
                  {"eos_token", token("<e>", {{"__type", "AddedToken"}})},
                  {"image_token", "<i>"},
                  {"extra_special_tokens", {"<x>"}},
                  {"add_bos_token", true},
                  {"bos_token", nullptr}});
  EXPECT_THAT(ids("<e>[PAD]<i><x>"), ElementsAre(257, 258, 259, 260));
}

TEST_F(TokenizerFolder, FilesThatContradictEachOtherAreRefused) {
  config_["added_tokens_decoder"] = {{"300", token("<e>")}};
  EXPECT_THAT(error(), HasSubstr("tokenizer_config.json: added_tokens_decoder.300: the token '<e>' has id 300, but the "
                                 "other files leave 257 for it"));
  config_["added_tokens_decoder"] = {{"257", token("<s>")}};
  EXPECT_THAT(error(), HasSubstr("has id 257, but the other files leave 256 for it"));
  config_["added_tokens_decoder"] = {{"x", token("<e>")}};
  EXPECT_THAT(error(), HasSubstr("added_tokens_decoder has the key 'x', which is no token id"));
  config_.erase("added_tokens_decoder");
  folder_.write("added_tokens.json", R"({"<e>": 256})");
  EXPECT_EQ(ids("<e>").size(), 3u);  // tokenizer.json's own entry takes the id, as in transformers
  folder_.write("added_tokens.json", R"({"<e>": 259})");
  EXPECT_THAT(error(),
              HasSubstr("added_tokens.json: the token '<e>' has id 259, but the other files leave 257 for it"));
  folder_.write("added_tokens.json", "{}");
  config_["split_special_tokens"] = true;
  EXPECT_THAT(error(), HasSubstr("tokenizer_config.json: split_special_tokens is true"));
}

// Qwen2Tokenizer takes no added tokens from tokenizer.json where the config lists them, and splits text by its own
// rules.
TEST_F(TokenizerFolder, ClassesWithRulesOfTheirOwn) {
  config_ = {{"tokenizer_class", "Qwen2Tokenizer"}, {"added_tokens_decoder", {{"257", token("<e>")}}}};
  testing::internal::CaptureStderr();
  EXPECT_THAT(
      error(),
      HasSubstr(
          "added_tokens_decoder lacks '<s>', which tokenizer.json adds (transformers would not know it as a token"));
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("transformers' Qwen2Tokenizer splits text by its own rules, which are others"));
  config_["added_tokens_decoder"]["256"] = token("<s>");
  EXPECT_THAT(ids("<s><e><|endoftext|>"), ElementsAre(256, 257, 258));  // the class's own end of text
  // The model's own class goes before another one for Qwen3.5, and none has a say for DeepSeek-V4.
  config_.erase("added_tokens_decoder");
  config_["tokenizer_class"] = "LlamaTokenizerFast";
  folder_.write("config.json", R"({"model_type": "deepseek_v4"})");
  testing::internal::CaptureStderr();
  EXPECT_THAT(ids("<s>"), ElementsAre(256));
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  folder_.write("config.json", R"({"model_type": "qwen3_5_moe"})");
  testing::internal::CaptureStderr();
  EXPECT_THAT(ids("<s>"), ElementsAre(256));
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("Qwen3_5Tokenizer splits"));
}

// The released splitting is no reason for a word.
TEST_F(TokenizerFolder, TheReleasedTokenizerIsQuiet) {
  folder_.write("config.json", R"({"model_type": "qwen3_moe"})");
  fs::copy_file(kGolden / "tokenizers/qwen3/tokenizer.json", folder_.path / "tokenizer.json");
  testing::internal::CaptureStderr();
  EXPECT_EQ(Tokenizer::from_folder(folder_.path).encode("<|im_start|>user").ids,
            qwen3_tokenizer().encode("<|im_start|>user").ids);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace moraine
