#include "base/text.h"

#include <gtest/gtest.h>

#include "base/bytes.h"
#include "base/error.h"

namespace moraine {
namespace {

TEST(Text, NearestWord) {
  std::vector<std::string> words{"model", "adapter", "data", "train"};
  EXPECT_EQ(nearest_word("trian", words), "train");
  EXPECT_EQ(nearest_word("trainn", words), "train");
  EXPECT_EQ(nearest_word("dta", words), "data");
  EXPECT_EQ(nearest_word("model", words), "model");
  EXPECT_EQ(nearest_word("zzzzz", words), "");
  EXPECT_EQ(nearest_word("", words), "");
  EXPECT_EQ(nearest_word("x", {}), "");
  EXPECT_EQ(nearest_word("data.trian", {"data.eval", "data.train"}), "data.train");
}

TEST(Text, JoinWords) {
  EXPECT_EQ(join_words({}), "");
  EXPECT_EQ(join_words({"a"}), "a");
  EXPECT_EQ(join_words({"a", "b"}), "a and b");
  EXPECT_EQ(join_words({"a", "b", "c"}), "a, b and c");
}

TEST(Text, QuoteTextStaysOneShortLine) {
  EXPECT_EQ(quote_text("plain é"), "'plain é'");
  EXPECT_EQ(quote_text("a\nb\x01\x7f"), "'a\\nb\\x01\\x7f'");
  EXPECT_EQ(quote_text("\xff"), "'\\xff'");
  EXPECT_LT(quote_text(std::string(1000, 'x')).size(), 210u);
  std::string cut = quote_text("x" + std::string(1000, '\0'));
  EXPECT_TRUE(is_utf8(cut));
  std::string accents;
  for (int i = 0; i < 500; ++i) accents += "é";
  EXPECT_TRUE(is_utf8(quote_text(accents)));
  EXPECT_TRUE(is_utf8(quote_text("x" + accents)));
}

TEST(Text, IsUtf8) {
  EXPECT_TRUE(is_utf8(""));
  EXPECT_TRUE(is_utf8("aé€😀"));
  EXPECT_TRUE(is_utf8("\xf4\x8f\xbf\xbf"));
  for (const char* bad : {"\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82", "\xe2\x28\xa1", "\xff", "a\xc3z"}) {
    EXPECT_FALSE(is_utf8(bad)) << quote_text(bad);
  }
}

TEST(Bytes, CheckedArithmetic) {
  EXPECT_EQ(checked_mul(UINT64_MAX, 1), UINT64_MAX);
  EXPECT_EQ(checked_mul(uint64_t{1} << 32, uint64_t{1} << 32), std::nullopt);
  EXPECT_EQ(checked_add(UINT64_MAX, 1), std::nullopt);
  EXPECT_EQ(round_up(0, 8), 0u);
  EXPECT_EQ(round_up(9, 8), 16u);
  EXPECT_EQ(format_bytes(900), "900 B");
  EXPECT_EQ(format_bytes(uint64_t{3} << 29), "1.50 GiB");
}

TEST(Error, IsOneLine) {
  Error error = input_error("recipe.yaml", "unknown key 'trian'", "did you mean 'train'?");
  EXPECT_STREQ(error.what(), "recipe.yaml: unknown key 'trian' (did you mean 'train'?)");
  EXPECT_EQ(error.kind, ErrorKind::kInput);
  EXPECT_STREQ(run_error("a", "b").what(), "a: b");
  EXPECT_EQ(run_error("a", "b").kind, ErrorKind::kRun);
}

TEST(Bytes, ParsesAmountsAndRefusesEverythingElse) {
  EXPECT_EQ(parse_bytes("0"), 0u);
  EXPECT_EQ(parse_bytes("80GiB"), uint64_t{80} << 30);
  EXPECT_EQ(parse_bytes("2g"), uint64_t{2} << 30);
  EXPECT_EQ(parse_bytes("1.5 GB"), 1500000000u);
  EXPECT_EQ(parse_bytes("512 MiB"), uint64_t{512} << 20);
  for (const char* text : {"", "GiB", "-1", "80 bananas", "1e300", "nan", "1GiB2", "3 XB"})
    EXPECT_FALSE(parse_bytes(text)) << text;
}

}  // namespace
}  // namespace moraine
