#include "config/recipe_reference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/temp_folder.h"
#include "config/recipe.h"

namespace moraine {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST(RecipeReference, TextHasEveryKey) {
  const std::string text = recipe_text("");
  for (const auto& [key, value] : recipe_entries(Recipe())) EXPECT_THAT(text, HasSubstr(key));
  EXPECT_THAT(text, HasSubstr("train.betas=[0.9, 0.999]"));
}

TEST(RecipeReference, TextOfASectionAndOfAKey) {
  EXPECT_THAT(recipe_text("load"),
              AllOf(StartsWith("load.mode=direct "), HasSubstr("\nload.verify=full "), Not(HasSubstr("train."))));
  EXPECT_THAT(
      recipe_text("load.mode"),
      StartsWith(
          "load.mode=direct                      one of direct, node and rank0\n    Who reads the checkpoint: "));
  EXPECT_THAT(recipe_text("save.dir"), StartsWith("save.dir                              a path\n"));
}

TEST(RecipeReference, AnUnknownKeyNamesTheNearest) {
  EXPECT_EQ(error_of([] { recipe_text("learning_rate"); }),
            "recipe: unknown key 'learning_rate' (did you mean 'train.learning_rate'?)");
  EXPECT_EQ(error_of([] { recipe_text("lod"); }), "recipe: unknown key 'lod' (did you mean 'load'?)");
}

TEST(RecipeReference, SchemaDescribesEveryKindOfValue) {
  const OrderedJson schema = recipe_schema();
  EXPECT_EQ(schema["additionalProperties"], false);
  const auto key = [&](const std::string& section, const std::string& name) {
    OrderedJson found = schema["properties"][section]["properties"][name];
    EXPECT_FALSE(found["description"].get<std::string>().empty());
    found.erase("description");
    return found.dump();
  };
  EXPECT_EQ(schema["properties"]["load"]["additionalProperties"], false);
  EXPECT_EQ(schema["properties"]["load"]["type"].dump(), R"(["object","null"])");
  EXPECT_EQ(key("load", "verify"), R"({"enum":["full","placement","off",null],"default":"full"})");
  EXPECT_EQ(key("model", "path"), R"({"type":["string","null"],"minLength":1})");
  EXPECT_EQ(key("adapter", "r"), R"({"type":["integer","null"],"minimum":1,"maximum":1048576,"default":8})");
  EXPECT_EQ(key("adapter", "lora_alpha"), R"({"type":["number","null"],"exclusiveMinimum":0.0,"default":16})");
  EXPECT_EQ(
      key("adapter", "target_modules"),
      R"({"anyOf":[{"enum":["all-linear",null]},{"type":["array","string"],"items":{"type":"string","minLength":1},"minLength":1}],)"
      R"("default":"all-linear"})");
  EXPECT_EQ(key("adapter", "target_parameters"),
            R"({"type":["array","string","null"],"items":{"type":"string","minLength":1},"minLength":1,)"
            R"("default":["mlp.experts.gate_up_proj","mlp.experts.down_proj"]})");
  EXPECT_EQ(key("data", "packing"), R"({"type":["boolean","null"],"default":false})");
  EXPECT_EQ(key("data", "variables"),
            R"({"type":["object","null"],"additionalProperties":{"type":["string","number","boolean"]},"default":{}})");
  EXPECT_EQ(key("mesh", "fsdp"),
            R"({"anyOf":[{"enum":["auto",null]},{"type":"integer","minimum":1,"maximum":1048576}],"default":"auto"})");
  EXPECT_EQ(
      key("mesh", "resident"),
      R"({"type":["string","integer","null"],"minimum":0,"pattern":"^[0-9.]+ *([bB]|[kKmMgGtTpP]([iI]?[bB])?)?$","default":0})");
  EXPECT_EQ(key("save", "resume"),
            R"({"anyOf":[{"enum":["auto","never",null]},{"type":"string","minLength":1}],"default":"auto"})");
  EXPECT_EQ(
      key("train", "betas"),
      R"({"type":["array","null"],"items":{"type":"number","minimum":0.0,"exclusiveMaximum":1.0},"minItems":2,"maxItems":2,)"
      R"("default":[0.9,0.999]})");
}

TEST(RecipeReference, DocsAreWhatTheProgramPrints) {
  EXPECT_EQ(read_text_file(std::string(MORAINE_TESTS_DIR) + "/../docs/recipe.md", 1 << 20), recipe_markdown())
      << "build/moraine recipe --markdown > docs/recipe.md";
}

}  // namespace
}  // namespace moraine
