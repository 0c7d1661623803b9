#include "base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/not_finite.h"
#include "base/temp_folder.h"

namespace moraine {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string json_error(std::string_view text) {
  std::string error = error_of([&] { parse_json(text, "x.json"); });
  EXPECT_EQ(error_of([&] { parse_ordered_json(text, "x.json"); }), error);
  return error;
}

TEST(Json, ReadsEveryKindOfValue) {
  Json json =
      parse_json(R"({"a": [1, -2, 3.5, true, false, null, "é\n😀"], "b": {}, "c": [], "d": 18446744073709551615})", "x");
  EXPECT_EQ(json["a"][0], 1);
  EXPECT_EQ(json["a"][1], -2);
  EXPECT_EQ(json["a"][2], 3.5);
  EXPECT_TRUE(json["a"][5].is_null());
  EXPECT_EQ(json["a"][6], "é\n😀");
  EXPECT_TRUE(json["b"].is_object() && json["b"].empty());
  EXPECT_EQ(json["d"].get<uint64_t>(), UINT64_MAX);
  EXPECT_EQ(parse_json(" 7 ", "x"), 7);
  EXPECT_EQ(parse_json("\"\\ud83d\\ude00\"", "x"), "😀");
}

TEST(Json, OrderedKeepsTheOrderOfKeys) {
  EXPECT_EQ(parse_ordered_json(R"({"z":1,"a":{"y":2,"b":3}})", "x").dump(), R"({"z":1,"a":{"y":2,"b":3}})");
  EXPECT_EQ(parse_json(R"({"z":1,"a":2})", "x").dump(), R"({"a":2,"z":1})");
}

TEST(Json, LongIntegersKeepTheirDigitsWhereTheyArePrintedAgain) {
  const char* text = R"([18446744073709551616, -9223372036854775809, 18446744073709551615, 1e20, 1.0])";
  const OrderedJson exact = parse_exact_json(text, "x");
  EXPECT_EQ(big_integer_digits(exact[0]), "18446744073709551616");
  EXPECT_EQ(big_integer_digits(exact[1]), "-9223372036854775809");
  for (size_t i = 2; i < 5; ++i) EXPECT_EQ(big_integer_digits(exact[i]), std::nullopt);
  EXPECT_EQ(exact[2].get<uint64_t>(), UINT64_MAX);
  EXPECT_TRUE(exact[3].is_number_float());
  // tokenizer_config.json holds such numbers, as limits.
  EXPECT_EQ(parse_json("1000000000000000019884624838656", "x"), 1000000000000000019884624838656.0);
  EXPECT_TRUE(parse_ordered_json("18446744073709551616", "x").is_number_float());
}

TEST(Json, NamesPlaceOfMalformedText) {
  EXPECT_THAT(json_error("{\"a\": 1,\n \"b\" 2}"),
              AllOf(HasSubstr("x.json: malformed JSON at line 2, column 6"), HasSubstr("':'")));
  EXPECT_THAT(json_error(""), HasSubstr("line 1, column 1"));
  EXPECT_THAT(json_error("{} x"), HasSubstr("line 1, column 4"));
  EXPECT_THAT(json_error("[1, 2"), HasSubstr("malformed JSON at line 1"));
  EXPECT_THAT(json_error("[1e999]"), HasSubstr("number overflow"));
  for (const char* text : {"[nan]", "[NaNs]", "[+Infinity]", "[- Infinity]", "[inf]", "[NaN NaN]"})
    EXPECT_THAT(json_error(text), HasSubstr("malformed JSON at line 1"));
  EXPECT_THAT(json_error("[\"" + std::string(100000, 'x')), HasSubstr("missing closing quote"));
}

TEST(Json, ReadsWhatPythonWritesForNumbersThatAreNotFinite) {
  const char* text = R"({"a": NaN, "b": [1, -Infinity,2.5,Infinity], "NaN": "NaN, Infinity", "c": "\\", "d":NaN})";
  const Json json = parse_json(text, "x");
  EXPECT_EQ(not_finite_word(json["a"]), "NaN");
  EXPECT_EQ(not_finite_word(json["b"][1]), "-Infinity");
  EXPECT_EQ(not_finite_word(json["b"][3]), "Infinity");
  EXPECT_EQ(not_finite_word(json["d"]), "NaN");
  EXPECT_EQ(json["b"][0], 1);
  EXPECT_EQ(json["b"][2], 2.5);
  EXPECT_EQ(json["NaN"], "NaN, Infinity");
  EXPECT_FALSE(json["a"].is_number() || json["a"].is_null() || json["a"].is_string());
  EXPECT_EQ(not_finite_word(json["b"][0]), std::nullopt);
  EXPECT_EQ(big_integer_digits(parse_exact_json("NaN", "x")), std::nullopt);
  EXPECT_EQ(not_finite_word(parse_exact_json("-Infinity", "x")), "-Infinity");
  EXPECT_EQ(dump_with_not_finite(parse_ordered_json(text, "x"), -1),
            R"({"a":NaN,"b":[1,-Infinity,2.5,Infinity],"NaN":"NaN, Infinity","c":"\\","d":NaN})");
  // Other mistakes are named where they are, and a big integer beside one keeps its digits.
  EXPECT_THAT(json_error("{\"a\": NaN,\n \"b\" 2}"), HasSubstr("x.json: malformed JSON at line 2, column 6"));
  EXPECT_THAT(json_error("{\"a\": NaN, \"a\": 1}"), HasSubstr("column 14: key 'a' is given twice"));
  const OrderedJson exact = parse_exact_json("[NaN, 36893488147419103232, 111]", "x");
  EXPECT_EQ(big_integer_digits(exact[1]), "36893488147419103232");
  EXPECT_EQ(exact[2], 111);
}

TEST(Json, RefusesANulByteThatWouldHideWhatFollows) {
  EXPECT_THAT(json_error(std::string_view("{}\0garbage", 10)), HasSubstr("line 1, column 3: a NUL byte"));
}

TEST(Json, RefusesInvalidUtf8) {
  EXPECT_THAT(json_error("{\"a\": \"\xff\"}"), HasSubstr("ill-formed UTF-8"));
  EXPECT_THAT(json_error("{\"\xc0\xaf\": 1}"), HasSubstr("ill-formed UTF-8"));
  EXPECT_THAT(json_error("\"\xed\xa0\x80\""), HasSubstr("ill-formed UTF-8"));  // a surrogate
  EXPECT_THAT(json_error("\"\\ud800\""), HasSubstr("surrogate"));
}

TEST(Json, RefusesAKeyGivenTwice) {
  EXPECT_THAT(json_error("{\"a\": 1,\n\"b\": 2, \"a\": 3}"), HasSubstr("line 2, column 11: key 'a' is given twice"));
  EXPECT_THAT(json_error(R"([{"x": {"a": 1, "a": 1}}])"), HasSubstr("key 'a' is given twice"));
  EXPECT_THAT(json_error(R"({"a": 1, "\u0061": 1})"), HasSubstr("key 'a' is given twice"));
  EXPECT_NO_THROW(parse_json(R"([{"a": {"a": 1}}, {"a": 1}])", "x"));
  // The key in the message is cut and stays on one line.
  std::string key = "\\n" + std::string(100000, 'k');
  EXPECT_THAT(json_error("{\"" + key + "\":1,\"" + key + "\":1}"), HasSubstr("is given twice"));
}

TEST(Json, LimitsDepth) {
  auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse_json(nested(256), "x"));
  EXPECT_THAT(json_error(nested(257)), HasSubstr("column 257: nested deeper than 256 levels"));
  EXPECT_THAT(json_error(nested(1000000)), HasSubstr("nested deeper"));
  std::string objects;
  for (int i = 0; i < 1000000; ++i) objects += "{\"a\":";
  EXPECT_THAT(json_error(objects), HasSubstr("nested deeper"));
}

// Quadratic look-ups for duplicates would take minutes here.
TEST(Json, ManyKeys) {
  std::string text = "{";
  for (int i = 0; i < 200000; ++i) text += (i ? ",\"" : "\"") + std::to_string(i) + "\":0";
  text += "}";
  EXPECT_EQ(parse_json(text, "x").size(), 200000u);
  EXPECT_EQ(parse_ordered_json(text, "x").size(), 200000u);
}

TEST(Json, FileErrorsNameThePath) {
  TempFolder folder;
  std::filesystem::path path = folder.write("config.json", "{,}");
  EXPECT_THAT(error_of([&] { read_json_file(path); }), HasSubstr("config.json: malformed JSON at line 1, column 2"));
}

}  // namespace
}  // namespace moraine
