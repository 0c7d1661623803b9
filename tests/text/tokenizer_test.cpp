#include "text/tokenizer/tokenizer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/json.h"
#include "text/chats.h"
#include "text/tokenizer/oniguruma_pattern.h"
#include "text/tokenizer/unicode_normalizer.h"

namespace moraine {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

std::filesystem::path write_file(const std::string& text) {
  static int number = 0;
  std::filesystem::path path =
      std::filesystem::path(testing::TempDir()) / fmt::format("tokenizer_{}_{}.json", getpid(), number++);
  std::ofstream(path) << text;
  return path;
}

// Every byte is its own id; "ab" is 256, " ab" 257; added tokens come next.
Json small_tokenizer() {
  Json vocab;
  for (int b = 0; b < 256; ++b) vocab[byte_character(b)] = b;
  vocab["ab"] = 256;
  vocab["Ġab"] = 257;
  return {{"version", "1.0"},
          {"added_tokens", Json::array()},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b", Json::array({"Ġ", "ab"})}}}}};
}

Tokenizer load(const Json& json) { return Tokenizer::from_file(write_file(json.dump())); }

void add_token(Json& json, const std::string& content, std::vector<std::string> flags) {
  Json token = {{"id", 258 + json["added_tokens"].size()}, {"content", content}};
  for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized", "special"}) token[flag] = false;
  for (const std::string& flag : flags) token[flag] = true;
  json["added_tokens"].push_back(token);
}

// The words that a pre_tokenizer makes of `text`, between bars.
std::string words(const Json& pre_tokenizers, const std::string& text) {
  Json json = small_tokenizer();
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", pre_tokenizers}};
  // A prefix space in front of every word shows where it begins.
  json["pre_tokenizer"]["pretokenizers"].push_back(
      {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", false}});
  Tokenizer tokenizer = load(json);
  std::string out = tokenizer.decode(tokenizer.encode(text).ids);
  std::replace(out.begin(), out.end(), ' ', '|');
  return out;
}

std::string load_error(const std::filesystem::path& path) {
  try {
    Tokenizer::from_file(path);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind, ErrorKind::kInput);
    EXPECT_THAT(error.what(), HasSubstr(path.string()));
    return error.what();
  }
  return "";
}

std::string load_error(const Json& json) { return load_error(write_file(json.dump())); }

class Goldens : public testing::TestWithParam<const char*> {};

TEST_P(Goldens, EncodesAndDecodesAsTheReference) {
  Tokenizer tokenizer = Tokenizer::from_file(kGolden / "tokenizers" / GetParam() / "tokenizer.json");
  std::ifstream file(kGolden / "tokenizers" / GetParam() / "encode.jsonl");
  int rows = 0;
  for (std::string line; std::getline(file, line); ++rows) {
    Json row = parse_json(line, "encode.jsonl");
    auto ids = row["ids"].get<std::vector<int64_t>>();
    EXPECT_EQ(tokenizer.encode(row["text"].get<std::string>()).ids, ids) << row["text"];
    EXPECT_EQ(tokenizer.decode(ids), row["decoded"].get<std::string>()) << row["text"];
  }
  EXPECT_GT(rows, 200);
}

// The offsets of the text between its tokens leave nothing out.
TEST_P(Goldens, OffsetsCoverTheText) {
  Tokenizer tokenizer = Tokenizer::from_file(kGolden / "tokenizers" / GetParam() / "tokenizer.json");
  std::ifstream file(kGolden / "tokenizers" / GetParam() / "encode.jsonl");
  for (std::string line; std::getline(file, line);) {
    Json row = parse_json(line, "encode.jsonl");
    std::string text = row["text"];
    Encoding encoding = tokenizer.encode(text);
    ASSERT_EQ(encoding.ids.size(), encoding.offsets.size());
    bool changed = row["text"] != row["decoded"];
    uint32_t end = 0;
    std::string joined;
    for (auto [begin, stop] : encoding.offsets) {
      if (!changed) {
        EXPECT_EQ(begin, end) << row["text"];
      }
      EXPECT_LT(begin, stop);
      EXPECT_GE(stop, end);
      EXPECT_LE(begin, end) << "a gap in " << row["text"];
      if (!changed) joined += text.substr(begin, stop - begin);
      end = stop;
    }
    EXPECT_EQ(end, text.size());
    if (!changed) {
      EXPECT_EQ(joined, text);
    }
  }
}

// Long runs of one kind of character must not take quadratic time.
TEST_P(Goldens, LongRunsTakeLinearTime) {
  Tokenizer tokenizer = Tokenizer::from_file(kGolden / "tokenizers" / GetParam() / "tokenizer.json");
  for (const char* unit : {"a", " ", "\n", "!", "1", "<", "ab", "中", "é", "\u0301", "\u0301\u0316", "e\u0301",
                           "\u1100", " \n", "\xFF", "'s", "a ", "<|im_end|>", "<｜"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    std::clock_t start = std::clock();  // of the processor: other programs may keep this one waiting
    Encoding encoding = tokenizer.encode(text);
    double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_EQ(encoding.offsets.back().second, text.size()) << unit;
    EXPECT_LT(seconds, 20) << unit;  // about 0.3, a few under sanitizers; quadratic time would be hours
  }
}

INSTANTIATE_TEST_SUITE_P(, Goldens, testing::Values("qwen3", "deepseek"),
                         [](const auto& info) { return std::string(info.param); });

// Small vocabularies in the forms that other families have: byte_fallback with Prepend and Replace or with Metaspace,
// further regexes and cuts. The reference's offsets are characters; a byte's token has its whole character.
class SmallGoldens : public testing::TestWithParam<const char*> {};

TEST_P(SmallGoldens, EncodesAlignsAndDecodesAsTheReference) {
  const std::filesystem::path folder = kGolden / "tokenizers" / "small" / GetParam();
  Tokenizer tokenizer = Tokenizer::from_file(folder / "tokenizer.json");
  std::ifstream file(folder / "encode.jsonl");
  int rows = 0;
  for (std::string line; std::getline(file, line); ++rows) {
    Json row = parse_json(line, "encode.jsonl");
    const std::string text = row["text"];
    const Encoding encoding = tokenizer.encode(text);
    EXPECT_EQ(encoding.ids, row["ids"].get<std::vector<int64_t>>()) << row["text"];
    std::vector<uint32_t> characters_before(text.size() + 1, 0);
    for (size_t i = 0; i < text.size(); ++i)
      characters_before[i + 1] = characters_before[i] + ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80);
    std::vector<std::pair<uint32_t, uint32_t>> offsets;
    for (auto [begin, end] : encoding.offsets)
      offsets.emplace_back(characters_before[begin + 1] - 1, characters_before[end]);
    EXPECT_EQ(offsets, (row["offsets"].get<std::vector<std::pair<uint32_t, uint32_t>>>())) << row["text"];
    EXPECT_EQ(tokenizer.decode(encoding.ids), row["decoded"].get<std::string>()) << row["text"];
    const auto random_ids = row["random_ids"].get<std::vector<int64_t>>();
    EXPECT_EQ(tokenizer.decode(random_ids), row["random_decoded"].get<std::string>()) << row["random_ids"];
  }
  EXPECT_GT(rows, 100);
}

INSTANTIATE_TEST_SUITE_P(, SmallGoldens,
                         testing::Values("mixtral", "mistral", "metaspace_first_split", "metaspace_always", "gemma",
                                         "fallback_digits", "gpt_oss"),
                         [](const auto& info) { return std::string(info.param); });

// The whole text is one word there.
TEST(Tokenizer, LongTextsWithoutWordsTakeLinearTime) {
  Tokenizer tokenizer = Tokenizer::from_file(kGolden / "tokenizers/small/mixtral/tokenizer.json");
  std::string text;
  while (text.size() < 300'000) text += "mor táli ven \n";
  std::clock_t start = std::clock();
  EXPECT_EQ(tokenizer.encode(text).offsets.back().second, text.size());
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 20);
}

TEST(Tokenizer, BytesOfTokensWithByteFallback) {
  Tokenizer tokenizer = Tokenizer::from_file(kGolden / "tokenizers/small/mixtral/tokenizer.json");
  EXPECT_EQ(tokenizer.bytes_of(tokenizer.token_to_id("<0xE4>")), "\xE4");
  EXPECT_EQ(tokenizer.bytes_of(tokenizer.token_to_id("▁mor")), " mor");
  // A run of bytes' tokens is text or one U+FFFD for each; a special token ends it, an id that is none does not.
  auto byte = [&](const char* token) { return tokenizer.token_to_id(token); };
  const int64_t lead = byte("<0xC3>"), trail = byte("<0xA9>"), special = byte("[INST]");
  EXPECT_EQ(tokenizer.decode(std::vector<int64_t>{lead, 9999, trail}), "é");
  EXPECT_EQ(tokenizer.decode(std::vector<int64_t>{lead, trail, lead}), "���");
  EXPECT_EQ(tokenizer.decode(std::vector<int64_t>{lead, special, trail}), "�[INST]�");
  EXPECT_EQ(tokenizer.decode_skipping_special(std::vector<int64_t>{lead, special, trail}), "é");
}

TEST(TokenizerErrors, PartsThatAreNotSupportedWithByteFallback) {
  const Json mistral = read_json_file(kGolden / "tokenizers/small/mistral/tokenizer.json");
  auto with = [&](const char* pointer, const Json& value) {
    Json json = mistral;
    json[Json::json_pointer(pointer)] = value;
    return load_error(json);
  };
  EXPECT_EQ(load_error(mistral), "");
  EXPECT_THAT(with("/model/byte_fallback", false), HasSubstr("model.unk_token"));
  EXPECT_THAT(with("/pre_tokenizer/prepend_scheme", "last"), HasSubstr("pre_tokenizer.prepend_scheme"));
  EXPECT_THAT(with("/pre_tokenizer/replacement", "__"), HasSubstr("pre_tokenizer.replacement"));
  EXPECT_THAT(with("/pre_tokenizer/add_prefix_space", false), HasSubstr("pre_tokenizer.add_prefix_space"));
  EXPECT_THAT(with("/pre_tokenizer/type", "ByteLevel"), HasSubstr("pre_tokenizer.type"));
  EXPECT_THAT(with("/normalizer", {{"type", "Lowercase"}}),
              AllOf(HasSubstr("normalizer.type"), HasSubstr("Lowercase")));
  EXPECT_THAT(with("/normalizer", {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", ""}}),
              HasSubstr("normalizer.content"));
  EXPECT_THAT(with("/decoder", nullptr), HasSubstr("decoder"));
  EXPECT_THAT(with("/decoder/decoders/3/stop", 1), HasSubstr("decoder.decoders[3].stop"));
  EXPECT_THAT(with("/decoder/decoders/1/type", "CTC"), HasSubstr("decoder.decoders[1].type"));
  Json json = mistral;
  json["model"]["merges"].push_back({"<0x41>", "a"});
  json["model"]["vocab"]["<0x41>a"] = json["model"]["vocab"].size();
  EXPECT_THAT(load_error(json), AllOf(HasSubstr("model.merges"), HasSubstr("a byte's token")));
  json = mistral;
  json["model"]["vocab"].erase("<0x41>");
  EXPECT_THAT(load_error(json), AllOf(HasSubstr("model.byte_fallback"), HasSubstr("<0x41>")));
}

TEST(Tokenizer, TokenToIdAndVocabSize) {
  Tokenizer qwen3 = Tokenizer::from_file(kGolden / "tokenizers/qwen3/tokenizer.json");
  EXPECT_EQ(qwen3.token_to_id("<|im_end|>"), 151645);
  EXPECT_EQ(qwen3.token_to_id("Ġthe"), 279);
  EXPECT_EQ(qwen3.token_to_id("no such token"), -1);
  EXPECT_EQ(qwen3.vocab_size(), 151669);
  EXPECT_EQ(qwen3.decode_skipping_special(std::vector<int64_t>{151644, 9707, 151645, -1, 999999999}), "Hello");
}

TEST(Tokenizer, OffsetsOfNormalisedTextAreThoseOfTheOriginal) {
  Json json = small_tokenizer();
  Tokenizer tokenizer = load(json);
  // "é" written as e + U+0301 becomes two bytes; both stand for the three bytes given.
  Encoding encoding = tokenizer.encode("ae\u0301b");
  EXPECT_THAT(encoding.ids, ElementsAre('a', 0xC3, 0xA9, 'b'));
  EXPECT_THAT(encoding.offsets, ElementsAre(Pair(0, 1), Pair(1, 4), Pair(1, 4), Pair(4, 5)));
  // Given as one character each byte stands for itself.
  encoding = tokenizer.encode("aéb");
  EXPECT_THAT(encoding.offsets, ElementsAre(Pair(0, 1), Pair(1, 2), Pair(2, 3), Pair(3, 4)));
}

TEST(Tokenizer, InvalidUtf8BecomesReplacementCharacters) {
  Tokenizer tokenizer = load(small_tokenizer());
  // A lone continuation byte, a cut-off sequence (one replacement), a surrogate (three).
  Encoding encoding = tokenizer.encode(
      "a\x80"
      "b\xE4\xB8"
      "c\xED\xA0\x80");
  EXPECT_EQ(tokenizer.decode(encoding.ids),
            "a\uFFFD"
            "b\uFFFD"
            "c\uFFFD\uFFFD\uFFFD");
  EXPECT_THAT(std::vector(encoding.offsets.begin(), encoding.offsets.begin() + 6),
              ElementsAre(Pair(0, 1), Pair(1, 2), Pair(1, 2), Pair(1, 2), Pair(2, 3), Pair(3, 5)));
  EXPECT_EQ(encoding.offsets.back(), std::pair(8u, 9u));
  EXPECT_EQ(tokenizer.encode("").ids.size(), 0);
}

TEST(Tokenizer, DecodesBytesThatAreNoTextAsReplacementCharacters) {
  Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(tokenizer.decode(std::vector<int64_t>{0xE4, 0xB8, 0xAD, 'x', 0xE4, 0xB8}), "中x\uFFFD");
}

TEST(Tokenizer, AddedTokenFlags) {
  Json json = small_tokenizer();
  add_token(json, "<l>", {"lstrip"});            // 258
  add_token(json, "<r>", {"rstrip"});            // 259
  add_token(json, "word", {"single_word"});      // 260
  add_token(json, "中i\u0308", {"normalized"});  // 261
  add_token(json, "<s>", {"special"});           // 262
  add_token(json, "<s><l>", {});                 // 263
  Tokenizer tokenizer = load(json);
  auto ids = [&](const char* text) { return tokenizer.encode(text).ids; };

  EXPECT_THAT(ids("a  <l> b"), ElementsAre('a', 258, ' ', 'b'));
  EXPECT_THAT(ids("a <r>  b"), ElementsAre('a', ' ', 259, 'b'));
  EXPECT_THAT(ids(" <l>\t<l>"), ElementsAre(258, 258));
  EXPECT_THAT(ids("<r> <l>x"), ElementsAre(259, 258, 'x'));
  EXPECT_THAT(tokenizer.encode("a  <l> b").offsets, ElementsAre(Pair(0, 1), Pair(1, 6), Pair(6, 7), Pair(7, 8)));
  EXPECT_THAT(ids("(word) word"), ElementsAre('(', 260, ')', ' ', 260));
  for (const char* text : {"words", "aword", "word_", "word\u200D", "word1", "éword"}) {
    EXPECT_THAT(ids(text), testing::Not(testing::Contains(260))) << text;
  }
  EXPECT_THAT(ids("中\u00EF"), ElementsAre(261));
  EXPECT_THAT(ids("中i\u0308"), ElementsAre(261));
  EXPECT_THAT(ids("x<s>ab"), ElementsAre('x', 262, 256));
  EXPECT_THAT(ids("<s><l>z"), ElementsAre(263, 'z'));  // the longest
  EXPECT_EQ(tokenizer.decode(ids("x<s>ab")), "x<s>ab");
  EXPECT_EQ(tokenizer.decode_skipping_special(ids("x<s>ab")), "xab");
  EXPECT_EQ(tokenizer.decode(std::vector<int64_t>{261}), "中\u00EF");
}

TEST(Tokenizer, SplitBehaviors) {
  auto split = [](const char* behavior, bool invert) {
    Json item = {{"type", "Split"}, {"pattern", {{"String", "-"}}}, {"behavior", behavior}, {"invert", invert}};
    return words(Json::array({item}), "a-ab--ab");
  };
  EXPECT_EQ(split("Isolated", false), "|a|-|ab|-|-|ab");
  EXPECT_EQ(split("Isolated", true), "|a|-|ab|-|-|ab");
  EXPECT_EQ(split("Removed", false), "|a|ab|ab");
  EXPECT_EQ(split("Removed", true), "|-|-|-");
  EXPECT_EQ(split("MergedWithPrevious", false), "|a-|ab-|-|ab");
  EXPECT_EQ(split("MergedWithPrevious", true), "|a|-ab|-|-ab");
  EXPECT_EQ(split("MergedWithNext", false), "|a|-ab|-|-ab");
  EXPECT_EQ(split("MergedWithNext", true), "|a-|ab-|-|ab");
  EXPECT_EQ(split("Contiguous", false), "|a|-|ab|--|ab");
}

TEST(Tokenizer, Digits) {
  EXPECT_EQ(words(Json::array({{{"type", "Digits"}, {"individual_digits", false}}}), "ab12ab"), "|ab|12|ab");
  EXPECT_EQ(words(Json::array({{{"type", "Digits"}, {"individual_digits", true}}}), "ab12ab"), "|ab|1|2|ab");
}

TEST(Tokenizer, IgnoreMergesTakesWholeWords) {
  Json json = small_tokenizer();
  json["model"]["vocab"]["xyz"] = 258;  // no merges lead there
  EXPECT_THAT(load(json).encode("xyz ab").ids, ElementsAre('x', 'y', 'z', 257));
  json["model"]["ignore_merges"] = true;
  EXPECT_THAT(load(json).encode("xyz ab").ids, ElementsAre(258, 257));
}

TEST(Tokenizer, SeveralThreadsGetTheSameIds) {
  Tokenizer tokenizer = load(small_tokenizer());
  std::vector<int64_t> expected = tokenizer.encode("ab abab b a").ids;
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) wrong[t] += tokenizer.encode("ab abab b a").ids != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

// Both ways of merging and the cache give what the definition gives: merge the pair of lowest rank, leftmost first.
TEST(Tokenizer, MergesByRank) {
  Json json = small_tokenizer();
  Json& model = json["model"];
  model["merges"] = Json::array();
  std::vector<std::string> tokens = {"a", "b", "c"};
  std::vector<std::pair<std::string, std::string>> merges;
  std::mt19937 random(1);
  int next_id = 258;
  while (merges.size() < 40) {
    std::string left = tokens[random() % tokens.size()], right = tokens[random() % tokens.size()];
    if (std::count(tokens.begin(), tokens.end(), left + right)) continue;
    tokens.push_back(left + right);
    if (!model["vocab"].contains(left + right)) model["vocab"][left + right] = next_id++;
    model["merges"].push_back({left, right});
    merges.push_back({left, right});
  }
  Tokenizer tokenizer = load(json);
  for (int length = 1; length < 200; ++length) {
    std::vector<std::string> symbols;
    std::string text;
    for (int i = 0; i < length; ++i) symbols.push_back(tokens[random() % 3]), text += symbols.back();
    for (size_t rank = 0; rank < merges.size();) {
      size_t i = 0;
      while (i + 1 < symbols.size() && std::pair(symbols[i], symbols[i + 1]) != merges[rank]) ++i;
      if (i + 1 >= symbols.size()) {
        ++rank;
        continue;
      }
      symbols[i] += symbols[i + 1];
      symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(i) + 1);
      rank = 0;  // the merged symbol may begin a pair of lower rank
    }
    std::vector<int64_t> expected;
    for (const std::string& symbol : symbols) expected.push_back(tokenizer.token_to_id(symbol));
    EXPECT_EQ(tokenizer.encode(text).ids, expected) << text;
    EXPECT_EQ(tokenizer.encode(text).ids, expected) << text << " from the cache";
  }
}

TEST(TokenizerErrors, MissingAndBrokenFiles) {
  EXPECT_THROW(Tokenizer::from_file("/nonexistent/tokenizer.json"), Error);
  EXPECT_NE(load_error(write_file("{\"model\": ")), "");
  EXPECT_THAT(load_error(write_file("[1]")), HasSubstr("must be an object"));
  EXPECT_THAT(load_error(write_file("{}")), HasSubstr("model"));
}

TEST(TokenizerErrors, UnsupportedPartsAreNamed) {
  auto with = [](const char* pointer, const Json& value) {
    Json json = small_tokenizer();
    json[Json::json_pointer(pointer)] = value;
    return load_error(json);
  };
  for (const char* model : {"WordLevel", "Unigram", "WordPiece"}) {
    EXPECT_THAT(with("/model/type", model),
                AllOf(HasSubstr("model.type"), HasSubstr(model), HasSubstr("byte-level BPE")));
  }
  EXPECT_THAT(with("/model/byte_fallback", true), HasSubstr("model.byte_fallback"));
  EXPECT_THAT(with("/model/dropout", 0.1), HasSubstr("model.dropout"));
  EXPECT_THAT(with("/model/end_of_word_suffix", "</w>"), HasSubstr("model.end_of_word_suffix"));
  EXPECT_THAT(with("/model/vocab", 3), HasSubstr("model.vocab"));
  EXPECT_THAT(with("/model/vocab/ab", -1), HasSubstr("model.vocab.ab"));
  EXPECT_THAT(with("/model/vocab/ab", uint64_t{1} << 40), HasSubstr("model.vocab.ab"));
  EXPECT_THAT(with("/model/vocab/ab", 97), HasSubstr("the id 97 to two tokens"));
  EXPECT_THAT(with("/model/merges", {"a"}), HasSubstr("model.merges"));
  EXPECT_THAT(with("/model/merges", {"a b", "a nothing"}), AllOf(HasSubstr("model.merges"), HasSubstr("nothing")));
  EXPECT_THAT(with("/model/merges", {{"a", 3}}), HasSubstr("model.merges"));
  EXPECT_THAT(with("/normalizer/type", "NFKC"), AllOf(HasSubstr("normalizer.type"), HasSubstr("NFKC")));
  EXPECT_THAT(with("/decoder/type", "WordPiece"), AllOf(HasSubstr("decoder.type"), HasSubstr("WordPiece")));
  EXPECT_THAT(with("/decoder", nullptr), HasSubstr("decoder"));
  EXPECT_THAT(with("/pre_tokenizer", nullptr), HasSubstr("pre_tokenizer"));
  EXPECT_THAT(with("/pre_tokenizer/type", "Metaspace"), AllOf(HasSubstr("pre_tokenizer.type"), HasSubstr("Metaspace")));
  EXPECT_THAT(with("/version", "2.0"), HasSubstr("version"));
  EXPECT_THAT(with("/added_tokens", {{{"id", 3}}}), HasSubstr("added_tokens[0]"));
  Json json = small_tokenizer();
  add_token(json, "<x>", {});
  json["added_tokens"][0]["id"] = 300;
  EXPECT_THAT(load_error(json), AllOf(HasSubstr("added_tokens[0].id"), HasSubstr("300"), HasSubstr("258")));
}

TEST(TokenizerErrors, RegexesThatWouldMeanSomethingElse) {
  for (const char* pattern : {"(a", "a)", "[a", "[[:alpha:]]", "[a&&b]", "(a)\\1", "\\bword", "\\h", "\\p{Unheard}",
                              "[^\\P{L}]", "a{2}?", "(?x)a", "(?i:ss)", "(?i:ß)", "\\xff", "a\\"}) {
    Json json = small_tokenizer();
    Json split = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
    json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, json["pre_tokenizer"]}}};
    EXPECT_THAT(load_error(json), AllOf(HasSubstr("pre_tokenizer.pretokenizers[0].pattern"), HasSubstr(pattern)));
  }
  EXPECT_THAT(pcre2_pattern("a{,2}|(b)"), "a{0,2}|(?:b)");
}

TEST(TokenizerErrors, AByteThatTheVocabularyLacks) {
  Json json = small_tokenizer();
  json["model"]["vocab"].erase("z");
  Tokenizer tokenizer = load(json);
  EXPECT_THAT(tokenizer.encode("ab").ids, ElementsAre(256));
  try {
    tokenizer.encode("abz");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("0x7A"));
  }
}

TEST(UnicodeNormalizer, ComposesOrdersAndAligns) {
  std::string storage;
  Alignment alignment;
  auto nfc = [&](std::string_view text) { return std::string(normalize_nfc(text, storage, alignment)); };
  EXPECT_EQ(nfc("plain"), "plain");
  EXPECT_TRUE(alignment.empty());
  EXPECT_EQ(nfc("e\u0301e\u0323\u0302"), "\u00E9\u1EC7");
  EXPECT_EQ(nfc("\u212B\u2126"), "\u00C5\u03A9");
  EXPECT_EQ(nfc("\u1100\u1161\u11A8"), "\uAC01");
  EXPECT_EQ(nfc("\u0958"), "\u0915\u093C");
  EXPECT_EQ(nfc("x\u0301\u0316y"), "x\u0316\u0301y");
  EXPECT_EQ(alignment.to_source(0, 1), (std::pair<size_t, size_t>(0, 1)));
  EXPECT_EQ(alignment.to_source(1, 3), (std::pair<size_t, size_t>(1, 5)));
  EXPECT_EQ(alignment.to_source(5, 6), (std::pair<size_t, size_t>(5, 6)));
  // Marks that the reference's Unicode version does not know stay where they are.
  EXPECT_EQ(nfc("a\U00010F84\u0353"), "a\U00010F84\u0353");
}

}  // namespace
}  // namespace moraine
