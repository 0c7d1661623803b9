#include "config/hf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/temp_folder.h"

namespace moraine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

HfConfig config(const char* text) { return HfConfig(parse_json(text, "config.json"), "config.json"); }

TEST(HfConfig, ReadsAFolderOrAFile) {
  TempFolder folder;
  std::filesystem::path path = folder.write("config.json", R"({"hidden_size": 64})");
  EXPECT_EQ(HfConfig::read(folder.path()).integer("hidden_size"), 64);
  EXPECT_EQ(HfConfig::read(path).integer("hidden_size"), 64);
  EXPECT_THAT(error_of([&] { HfConfig::read(folder / "none"); }), HasSubstr("none: no such folder"));
  folder.write("config.json", "[]");
  EXPECT_THAT(error_of([&] { HfConfig::read(folder.path()); }), HasSubstr("config.json: not a JSON object"));
}

TEST(HfConfig, NumbersThatAreNotFiniteAreRefusedWhereTheyAreRead) {
  HfConfig c = config(R"({"time_step_limit": [0.0, Infinity], "rope_theta": NaN, "n": 1})");
  EXPECT_EQ(c.integer("n"), 1);
  EXPECT_THAT(error_of([&] { c.number("rope_theta"); }),
              HasSubstr("config.json: key 'rope_theta' must be a number, not 'NaN'"));
  EXPECT_THAT(error_of([&] { c.integer("rope_theta", 1); }), HasSubstr("must be an integer, not 'NaN'"));
  // They stay in a config that is written again.
  TempFolder folder;
  const auto path = folder.write("config.json", R"({"time_step_limit": [0.0, Infinity], "torch_dtype": "float32"})");
  EXPECT_EQ(config_text_with_dtype(path, "bfloat16", {}),
            "{\n  \"time_step_limit\": [\n    0.0,\n    Infinity\n  ],\n  \"torch_dtype\": \"bfloat16\"\n}\n");
}

TEST(HfConfig, TypedGetters) {
  HfConfig c =
      config(R"({"i": 3, "f": 1.5, "b": true, "s": "x", "n": null, "list": [1, 2], "names": ["a"], "o": {"k": 7},
                          "big": 18446744073709551615})");
  EXPECT_EQ(c.integer("i"), 3);
  EXPECT_EQ(c.integer("n", 5), 5);
  EXPECT_EQ(c.integer("none", 6), 6);
  EXPECT_EQ(c.number("f"), 1.5);
  EXPECT_EQ(c.number("i"), 3.0);
  EXPECT_EQ(c.number("none", 0.5), 0.5);
  EXPECT_TRUE(c.boolean("b", false));
  EXPECT_TRUE(c.boolean("n", true));
  EXPECT_EQ(c.text("s", ""), "x");
  EXPECT_EQ(c.text("none", "y"), "y");
  EXPECT_THAT(c.integers("list"), ElementsAre(1, 2));
  EXPECT_THAT(c.integers("none"), IsEmpty());
  EXPECT_THAT(c.texts("names"), ElementsAre("a"));
  EXPECT_EQ(c.object("o").integer("k"), 7);
  EXPECT_TRUE(c.has("i"));
  EXPECT_FALSE(c.has("n"));

  EXPECT_THAT(error_of([&] { c.integer("none"); }), HasSubstr("config.json: missing key 'none'"));
  EXPECT_THAT(error_of([&] { c.integer("n"); }), HasSubstr("config.json: missing key 'n'"));
  EXPECT_THAT(error_of([&] { c.integer("f"); }), HasSubstr("config.json: key 'f' must be an integer, not '1.5'"));
  EXPECT_THAT(error_of([&] { c.integer("big"); }), HasSubstr("must be an integer"));
  EXPECT_THAT(error_of([&] { c.integer("s", 1); }), HasSubstr("key 's' must be an integer"));
  EXPECT_THAT(error_of([&] { c.number("b"); }), HasSubstr("key 'b' must be a number, not 'true'"));
  EXPECT_THAT(error_of([&] { c.boolean("i", true); }), HasSubstr("key 'i' must be true or false"));
  EXPECT_THAT(error_of([&] { c.text("o", ""); }), HasSubstr("key 'o' must be a string, not 'object'"));
  EXPECT_THAT(error_of([&] { c.integers("i"); }), HasSubstr("key 'i' must be a list of integers"));
  EXPECT_THAT(error_of([&] { c.integers("names"); }), HasSubstr("key 'names' must be an integer"));
  EXPECT_THAT(error_of([&] { c.texts("list"); }), HasSubstr("key 'list' must be a string"));
  EXPECT_THAT(error_of([&] { c.object("i"); }), HasSubstr("key 'i' must be an object"));
  EXPECT_THAT(error_of([&] { c.object("none"); }), HasSubstr("missing key 'none'"));
  EXPECT_THAT(error_of([&] { c.object("o").text("k", ""); }), HasSubstr("config.json: o: key 'k' must be a string"));
}

TEST(HfConfig, Architecture) {
  EXPECT_EQ(config(R"({"architectures": ["A", "B"]})").architecture(), "A");
  EXPECT_THAT(error_of([] { config("{}").architecture(); }), HasSubstr("missing key 'architectures'"));
  EXPECT_THAT(error_of([] { config(R"({"architectures": []})").architecture(); }),
              HasSubstr("missing key 'architectures'"));
}

TEST(HfConfig, DType) {
  EXPECT_EQ(config(R"({"dtype": "bfloat16"})").dtype(), DType::kBF16);
  EXPECT_EQ(config(R"({"torch_dtype": "float16"})").dtype(), DType::kF16);
  EXPECT_EQ(config(R"({"torch_dtype": "torch.float32"})").dtype(), DType::kF32);
  EXPECT_EQ(config(R"({"dtype": null, "text_config": {"dtype": "bfloat16"}})").dtype(), DType::kBF16);
  EXPECT_EQ(config(R"({"dtype": "float32", "text_config": {"dtype": "bfloat16"}})").dtype(), DType::kF32);
  EXPECT_EQ(config(R"({"text_config": {}})").dtype(), std::nullopt);
  EXPECT_EQ(config("{}").dtype(), std::nullopt);
  EXPECT_THAT(error_of([] { config(R"({"dtype": "float8"})").dtype(); }), HasSubstr("key 'dtype' is 'float8'"));
}

}  // namespace
}  // namespace moraine
