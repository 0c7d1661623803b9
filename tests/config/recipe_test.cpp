#include "config/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/temp_folder.h"

namespace moraine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class RecipeTest : public testing::Test {
 protected:
  Recipe read(const std::string& text, const std::vector<std::string>& overrides = {}) {
    return read_recipe(folder_.write("recipe.yaml", text).string(), overrides);
  }
  // Without the folder's name.
  std::string error(const std::string& text, const std::vector<std::string>& overrides = {}) {
    std::string line = error_of([&] { read(text, overrides); });
    std::string folder = folder_.path().string() + "/";
    if (size_t at = line.find(folder); at != line.npos) line.erase(at, folder.size());
    return line;
  }
  TempFolder folder_;
};

std::string override_error(const std::vector<std::string>& overrides) {
  return error_of([&] { recipe_from_overrides(overrides); });
}

constexpr const char* kFull = R"(
model: {path: models/a, dtype: bfloat16, base_format: bfloat16}
adapter:
  r: 4
  lora_alpha: 32.5
  target_modules: [q_proj, "v_proj"]
  exclude_modules: '.*\.3\..*'
  target_parameters: []
  lora_dropout: 0.1
  init_from: other/adapter
  seed: 18446744073709551615
data:
  train: [a.jsonl, "b c.jsonl"]
  eval: e.jsonl
  format: messages
  template: qwen3
  template_options: {enable_thinking: false, nested: {list: [1, 2.5, null, "true", yes]}}
  variables: {NAME: moraine, VERSION: 1.10, EMPTY: ""}
  max_length: 128
  truncation: drop
  packing: true
  shuffle: no
  loss_on: last
  turns: each
  template_name: tool_use
  allow_special_in_content: true
mesh: {ep: 4, fsdp: 8, replicate: 2}
load: {mode: rank0, verify: off}
train:
  steps: 100
  stop_after: 50
  batch_size: 16
  micro_batch_size: 2
  learning_rate: 2e-5
  scheduler: linear
  warmup_steps: 5
  betas: [0.8, 0.95]
  eps: 1.0e-6
  weight_decay: .01
  max_grad_norm: 0
  seed: 7
  recompute: none
  aux_loss_coef: 0.001
save: {dir: /runs/1, every: 10, keep: 3, resume: never}
dist: {timeout_seconds: 60.5, backend: gloo}
log: {every: 5, tensorboard: false}
)";

TEST_F(RecipeTest, TildeInPathsIsTheHomeFolder) {
  const char* set = getenv("HOME");
  const std::string before = set ? set : "";
  setenv("HOME", "/home/someone", 1);
  const Recipe r = read(
      "model: {path: ~/models/a}\nadapter: {init_from: ~/b}\ndata: {train: [~/c.jsonl, d/~], eval: ~/e.jsonl, "
      "template: ~/f}\n",
      {"save.dir=~/runs", "save.resume=~/runs/0"});
  EXPECT_EQ(r.model.path, "/home/someone/models/a");
  EXPECT_EQ(r.adapter.init_from, "/home/someone/b");
  EXPECT_THAT(r.data.train, ElementsAre("/home/someone/c.jsonl", "d/~"));
  EXPECT_THAT(r.data.eval, ElementsAre("/home/someone/e.jsonl"));
  EXPECT_EQ(r.data.chat_template, "~/f");  // no path
  EXPECT_EQ(r.save.dir, "/home/someone/runs");
  EXPECT_EQ(r.save.resume.folder, "/home/someone/runs/0");
  // Another user, or none, reads the same in the recipe that a run leaves.
  setenv("HOME", "/home/other", 1);
  EXPECT_EQ(read(recipe_to_yaml(r)).save.dir, "/home/someone/runs");
  EXPECT_THAT(error("save: {dir: ~no-such-user-here/x}"),
              HasSubstr("recipe.yaml: key 'save.dir': '~no-such-user-here/x': there is no user"));
  if (set) setenv("HOME", before.c_str(), 1);
}

TEST_F(RecipeTest, ReadsEveryKey) {
  Recipe r = read(kFull);
  EXPECT_EQ(r.model.path, "models/a");
  EXPECT_EQ(r.model.dtype, DtypeChoice::kBFloat16);
  EXPECT_EQ(r.model.base_format, BaseFormat::kBFloat16);
  EXPECT_EQ(r.adapter.r, 4);
  EXPECT_EQ(r.adapter.lora_alpha, 32.5);
  EXPECT_THAT(r.adapter.target_modules.names, ElementsAre("q_proj", "v_proj"));
  EXPECT_FALSE(r.adapter.target_modules.all_linear);
  EXPECT_EQ(r.adapter.exclude_modules.regex, ".*\\.3\\..*");
  EXPECT_THAT(r.adapter.target_parameters, IsEmpty());
  EXPECT_EQ(r.adapter.lora_dropout, 0.1);
  EXPECT_EQ(r.adapter.init_from, "other/adapter");
  EXPECT_EQ(r.adapter.seed, UINT64_MAX);
  EXPECT_THAT(r.adapter.given, ElementsAre("exclude_modules", "init_from", "lora_alpha", "lora_dropout", "r", "seed",
                                           "target_modules", "target_parameters"));
  EXPECT_THAT(r.data.train, ElementsAre("a.jsonl", "b c.jsonl"));
  EXPECT_THAT(r.data.eval, ElementsAre("e.jsonl"));
  EXPECT_EQ(r.data.format, DataFormatChoice::kMessages);
  EXPECT_EQ(r.data.chat_template, "qwen3");
  EXPECT_EQ(r.data.template_options.dump(), R"({"enable_thinking":false,"nested":{"list":[1,2.5,null,"true","yes"]}})");
  EXPECT_EQ(r.data.variables.dump(), R"({"EMPTY":"","NAME":"moraine","VERSION":"1.10"})");
  EXPECT_EQ(r.data.max_length, 128);
  EXPECT_EQ(r.data.truncation, Truncation::kDrop);
  EXPECT_TRUE(r.data.packing);
  EXPECT_FALSE(r.data.shuffle);
  EXPECT_EQ(r.data.loss_on, LossOn::kLast);
  EXPECT_EQ(r.data.turns, Turns::kEach);
  EXPECT_EQ(r.data.template_name, "tool_use");
  EXPECT_TRUE(r.data.allow_special_in_content);
  EXPECT_EQ(r.mesh.ep, 4);
  EXPECT_EQ(r.mesh.fsdp, 8);
  EXPECT_EQ(r.mesh.replicate, 2);
  EXPECT_EQ(r.load.mode, LoadMode::kRank0);
  EXPECT_EQ(r.load.verify, Verify::kOff);
  EXPECT_EQ(r.train.steps, 100);
  EXPECT_EQ(r.train.epochs, std::nullopt);
  EXPECT_EQ(r.train.stop_after, 50);
  EXPECT_EQ(r.train.batch_size, 16);
  EXPECT_EQ(r.train.micro_batch_size, 2);
  EXPECT_EQ(r.train.learning_rate, 2e-5);
  EXPECT_EQ(r.train.scheduler, Scheduler::kLinear);
  EXPECT_EQ(r.train.warmup_steps, 5);
  EXPECT_THAT(r.train.betas, ElementsAre(0.8, 0.95));
  EXPECT_EQ(r.train.eps, 1e-6);
  EXPECT_EQ(r.train.weight_decay, 0.01);
  EXPECT_EQ(r.train.max_grad_norm, 0);
  EXPECT_EQ(r.train.seed, 7u);
  EXPECT_EQ(r.train.recompute, Recompute::kNone);
  EXPECT_EQ(r.train.aux_loss_coef, 0.001);
  EXPECT_EQ(r.save.dir, "/runs/1");
  EXPECT_EQ(r.save.every, 10);
  EXPECT_EQ(r.save.keep, 3);
  EXPECT_EQ(r.save.resume.kind, ResumeFrom::Kind::kNever);
  EXPECT_EQ(r.dist.timeout_seconds, 60.5);
  EXPECT_EQ(r.dist.backend, BackendChoice::kGloo);
  EXPECT_EQ(r.log.every, 5);
  EXPECT_FALSE(r.log.tensorboard);
}

TEST_F(RecipeTest, OmittedKeysHaveDefaults) {
  for (const char* text : {"", "---\n", "# nothing\n", "{}", "model:\ntrain: {}\n"}) {
    Recipe r = read(text);
    EXPECT_EQ(recipe_to_yaml(r), recipe_to_yaml(Recipe())) << text;
    EXPECT_THAT(r.adapter.given, IsEmpty());
  }
}

TEST_F(RecipeTest, YamlRoundTrips) {
  for (
      const std::string& text :
      {std::string(kFull), std::string(), std::string("train: {epochs: 0.5}"),
       std::string(R"({"save": {"dir": "a: b # c\n\t\"\\ \u0001\u0085\u2028 é😀"}, "model": {"path": "null"}})"),
       std::string(
           R"({"data": {"train": ["1.5", "true", "~", "- a", "[x]", " ", "0x1F", "1e3", ".5", "2024-01-01", "off", "@x"]}})"),
       std::string("adapter: {target_modules: '(?:q|v)_proj$', exclude_modules: [a]}"),
       std::string("adapter: {init_from: a, r: 8}")}) {
    Recipe first = read(text);
    std::string yaml = recipe_to_yaml(first);
    Recipe second = read(yaml);
    EXPECT_EQ(recipe_to_yaml(second), yaml) << text;
    EXPECT_EQ(second.data.train, first.data.train);
    EXPECT_EQ(second.save.dir, first.save.dir);
    EXPECT_EQ(second.model.path, first.model.path);
    EXPECT_EQ(second.data.variables, first.data.variables);
    EXPECT_EQ(second.data.template_options, first.data.template_options);
    EXPECT_EQ(second.adapter.target_modules.regex, first.adapter.target_modules.regex);
  }
}

TEST_F(RecipeTest, YamlShowsEveryDefault) {
  std::string yaml = recipe_to_yaml(read(""));
  for (const char* line :
       {"model:\n  path: null\n  dtype: auto\n", "  target_modules: all-linear\n  exclude_modules: []\n",
        "  fsdp: auto\n", "  epochs: 1\n", "  steps: null\n", "  eps: 1.0e-08\n", "  verify: full\n",
        "  betas: [0.9, 0.999]\n", "  template: auto\n", "  variables: {}\n"}) {
    EXPECT_THAT(yaml, HasSubstr(line));
  }
  EXPECT_THAT(recipe_to_yaml(read("load: {verify: off}")), HasSubstr("verify: \"off\""));  // off is false for YAML 1.1
}

TEST_F(RecipeTest, MicroBatchesAreRowsOrTokens) {
  using Kind = MicroBatchTokens::Kind;
  EXPECT_THAT(recipe_to_yaml(read("")), HasSubstr("  micro_batch_size: 1\n  micro_batch_tokens: null\n"));
  for (const auto& [value, kind] : {std::pair{"auto", Kind::kAuto}, {"8192", Kind::kTokens}, {"null", Kind::kNone}}) {
    const Recipe recipe = read(std::string("train: {micro_batch_tokens: ") + value + "}");
    EXPECT_EQ(recipe.train.micro_batch_tokens.kind, kind);
    EXPECT_EQ(recipe.train.micro_batch_tokens.tokens, kind == Kind::kTokens ? 8192 : 0);
    const std::string yaml = recipe_to_yaml(recipe);
    EXPECT_THAT(yaml, HasSubstr(std::string("  micro_batch_tokens: ") + value + "\n"));
    EXPECT_EQ(recipe_to_yaml(read(yaml)), yaml) << "what a run writes can be read again";
  }
  EXPECT_THAT(override_error({"train.micro_batch_tokens=0"}), HasSubstr("auto or a whole number of at least 1"));
}

TEST_F(RecipeTest, WhatInitFromDecidesIsNotPrinted) {
  std::string yaml = recipe_to_yaml(read("adapter: {init_from: a, lora_alpha: 4}"));
  EXPECT_THAT(yaml, HasSubstr("adapter:\n  lora_alpha: 4\n  init_from: a\n"));
}

TEST_F(RecipeTest, PatternsKeepTheirOrder) {
  const std::string text =
      "adapter:\n  expert_r: 2\n  use_rslora: true\n"
      "  rank_pattern: {z_proj: 4, 'layers\\.0\\..*': 16, a: 1}\n"
      "  alpha_pattern: {b: 0.5, \"a\": 2}\n  layers_to_transform: 3\n"
      "train: {learning_rate_b_ratio: 16, learning_rate_pattern: {o_proj: 0}}";
  Recipe first = read(text);
  EXPECT_THAT(first.adapter.rank_pattern,
              ElementsAre(std::pair("z_proj", 4), std::pair("layers\\.0\\..*", 16), std::pair("a", 1)));
  EXPECT_THAT(first.adapter.alpha_pattern, ElementsAre(std::pair("b", 0.5), std::pair("a", 2.0)));
  EXPECT_THAT(first.adapter.layers_to_transform, ElementsAre(3));
  EXPECT_THAT(first.train.learning_rate_pattern, ElementsAre(std::pair("o_proj", 0.0)));
  Recipe second = read(recipe_to_yaml(first));
  EXPECT_EQ(second.adapter.rank_pattern, first.adapter.rank_pattern);
  EXPECT_EQ(second.adapter.alpha_pattern, first.adapter.alpha_pattern);
  EXPECT_EQ(second.adapter.layers_to_transform, first.adapter.layers_to_transform);
  EXPECT_EQ(second.adapter.expert_r, 2);
  EXPECT_EQ(second.train.learning_rate_b_ratio, 16);
  EXPECT_THAT(read(R"({"adapter": {"rank_pattern": {"z": 4, "a": 1}}})").adapter.rank_pattern,
              ElementsAre(std::pair("z", 4), std::pair("a", 1)));
  EXPECT_THAT(error("adapter: {rank_pattern: {a: 0}}"),
              HasSubstr("key 'adapter.rank_pattern' is '0', expected a map of whole numbers of at least 1"));
  EXPECT_THAT(error("adapter: {rank_pattern: {a: 1, a: 2}}"), HasSubstr("holds 'a' twice"));
  EXPECT_THAT(error("adapter: {alpha_pattern: [a]}"), HasSubstr("is a list, expected a map of numbers above 0"));
  EXPECT_THAT(error("adapter: {modules_to_save: [mlp.gate]}"),
              HasSubstr("adapter.modules_to_save is not supported (whole weights are not trained: give them adapters"));
  EXPECT_THAT(error("adapter: {layers_pattern: layers}"),
              HasSubstr("adapter.layers_pattern is not needed (the layers of these models are called layers"));
  EXPECT_THAT(error("adapter: {layers_to_transform: [0], target_modules: '.*q_proj'}"),
              HasSubstr("does not work together with a regular expression"));
  EXPECT_THAT(error("adapter: {layers_to_transform: [0, x]}"), HasSubstr("is 'x', expected a list of whole numbers"));
}

TEST_F(RecipeTest, ReadsJson) {
  Recipe r = read(
      "{\n\t\"model\": {\"path\": \"a\\/\\ud83d\\ude00\"},\n\t\"train\": {\"steps\": 3, \"learning_rate\": 1E-4},\n"
      "\t\"data\": {\"shuffle\": false, \"train\": [\"x\"], \"eval\": null}}");
  EXPECT_EQ(r.model.path, "a/😀");
  EXPECT_EQ(r.train.steps, 3);
  EXPECT_EQ(r.train.learning_rate, 1e-4);
  EXPECT_FALSE(r.data.shuffle);
}

TEST_F(RecipeTest, OverridesApplyInOrder) {
  Recipe r =
      read("train: {steps: 5, seed: oops}\ndata: {train: a}",
           {"train.steps=6", "train.steps=7", "train.seed=1", "data.train=[b,c]", "adapter.target_modules=.*(q|v)_proj",
            "data.template_options={enable_thinking: false}", "save.dir=runs/x=y", "adapter.exclude_modules=[]"});
  EXPECT_EQ(r.train.steps, 7);
  EXPECT_THAT(r.data.train, ElementsAre("b", "c"));
  EXPECT_EQ(r.adapter.target_modules.regex, ".*(q|v)_proj");
  EXPECT_EQ(r.data.template_options["enable_thinking"], false);
  EXPECT_EQ(r.save.dir, "runs/x=y");
  EXPECT_TRUE(r.adapter.exclude_modules.empty());
  EXPECT_THAT(r.adapter.given, ElementsAre("exclude_modules", "target_modules"));
}

TEST_F(RecipeTest, NullIsTheDefault) {
  Recipe r = read("train: {steps: 5, stop_after: 3, epochs: ~}\nadapter: {r: null}",
                  {"train.stop_after=null", "train.steps="});
  EXPECT_EQ(r.train.steps, std::nullopt);
  EXPECT_EQ(r.train.stop_after, std::nullopt);
  EXPECT_EQ(r.adapter.r, 8);
  EXPECT_THAT(r.adapter.given, IsEmpty());
}

TEST_F(RecipeTest, UnknownKeysNameTheNearest) {
  EXPECT_EQ(error("data: {trian: a}"), "recipe.yaml: unknown key 'data.trian' (did you mean 'data.train'?)");
  EXPECT_EQ(error("trian: {steps: 1}"), "recipe.yaml: unknown key 'trian' (did you mean 'train'?)");
  EXPECT_EQ(error("learning_rate: 1"),
            "recipe.yaml: unknown key 'learning_rate' (did you mean 'train.learning_rate'?)");
  EXPECT_EQ(error("adapter: {max_length: 1}"),
            "recipe.yaml: unknown key 'adapter.max_length' (did you mean 'data.max_length'?)");
  EXPECT_EQ(error("zzzzzzzz: 1"), "recipe.yaml: unknown key 'zzzzzzzz'");
  EXPECT_THAT(error("<<: {a: 1}"), HasSubstr("unknown key '<<'"));
  EXPECT_EQ(override_error({"train.step=4"}),
            "override 'train.step=4': unknown key 'train.step' (did you mean 'train.steps'?)");
}

TEST_F(RecipeTest, WrongTypesAndRangesNameKeyAndValue) {
  auto value_error = [&](const std::string& key, const std::string& value) {
    std::string line = override_error({key + "=" + value});
    EXPECT_THAT(line, HasSubstr("override '" + key + "=" + value + "': key '" + key + "' is "));
    return line;
  };
  EXPECT_THAT(error("adapter: {r: eight}"),
              "recipe.yaml: key 'adapter.r' is 'eight', expected a whole number of at least 1");
  for (const char* value :
       {"0", "-1", "1.5", "1e3", "'8'", "[1]", "{a: 1}", "99999999999999999999", "0x10", "!!str 8", "8 9"}) {
    EXPECT_THAT(value_error("adapter.r", value), HasSubstr("expected a whole number of at least 1"));
  }
  EXPECT_THAT(value_error("mesh.ep", "9999999999"), HasSubstr("expected at most 1048576"));
  EXPECT_THAT(value_error("mesh.ep", "0"), HasSubstr("at least 1"));
  EXPECT_THAT(value_error("mesh.fsdp", "all"), HasSubstr("expected auto or a whole number of at least 1"));
  EXPECT_THAT(value_error("train.steps", "0"), HasSubstr("at least 1"));
  EXPECT_THAT(value_error("train.epochs", "0"), HasSubstr("a number above 0"));
  EXPECT_THAT(value_error("train.learning_rate", "-1e-4"), HasSubstr("a number of at least 0"));
  for (const char* value : {"nan", ".nan", "inf", ".inf", "1e999", "fast", "'1'", "0x1"}) {
    EXPECT_THAT(value_error("train.learning_rate", value), HasSubstr("a number of at least 0"));
  }
  EXPECT_THAT(value_error("train.betas", "0.9"), HasSubstr("a list of two numbers"));
  EXPECT_THAT(value_error("train.betas", "[0.9, 0.9, 0.9]"), HasSubstr("is a list, expected a list of two numbers"));
  EXPECT_THAT(value_error("train.betas", "[0.9, 1]"), HasSubstr("is '1', expected a number of at least 0 and below 1"));
  EXPECT_THAT(value_error("train.warmup_steps", "-1"), HasSubstr("at least 0"));
  EXPECT_THAT(value_error("train.seed", "-1"), HasSubstr("a whole number of at least 0"));
  EXPECT_THAT(value_error("data.max_length", "0"), HasSubstr("at least 1"));
  EXPECT_THAT(value_error("data.packing", "maybe"), HasSubstr("expected true or false"));
  EXPECT_THAT(value_error("data.packing", "1"), HasSubstr("expected true or false"));
  EXPECT_THAT(value_error("data.train", "{a: b}"), HasSubstr("is a map, expected a list of paths"));
  EXPECT_THAT(value_error("data.train", "[[a]]"), HasSubstr("is a list, expected a list of paths"));
  EXPECT_THAT(value_error("data.train", "[a, null]"), HasSubstr("is empty, expected a list of paths"));
  EXPECT_THAT(value_error("adapter.target_parameters", "{a: b}"), HasSubstr("is a map, expected a list of strings"));
  EXPECT_THAT(value_error("data.template_options", "7"), HasSubstr("expected a map"));
  EXPECT_THAT(value_error("data.variables", "{A: [1]}"), HasSubstr("expected a map of strings"));
  EXPECT_THAT(value_error("save.dir", "[a]"), HasSubstr("expected a path"));
  EXPECT_THAT(value_error("save.resume", "[a]"), HasSubstr("expected auto, never or a folder"));
  EXPECT_THAT(value_error("data.template", "[a]"), HasSubstr("expected a string"));
  for (const char* value : {"20X", "-1", "[1GiB]", "lots", "1e99PiB"})
    EXPECT_THAT(value_error("mesh.resident", value), HasSubstr("expected an amount of memory, for example 20GiB"));
  EXPECT_THAT(value_error("adapter.target_modules", "{a: 1}"),
              HasSubstr("all-linear, a list of names or a regular expression"));
  EXPECT_THAT(value_error("dist.timeout_seconds", "0"), HasSubstr("a number above 0"));
}

TEST_F(RecipeTest, ChoicesAreListed) {
  EXPECT_EQ(error("load: {mode: rank1}"),
            "recipe.yaml: key 'load.mode' is 'rank1', expected one of direct, node and rank0");
  for (const char* key :
       {"model.dtype", "model.base_format", "data.format", "data.truncation", "data.loss_on", "data.turns",
        "load.verify", "train.scheduler", "train.recompute", "dist.backend", "dist.device"}) {
    EXPECT_THAT(override_error({std::string(key) + "=what"}), HasSubstr("is 'what', expected one of ")) << key;
    EXPECT_THAT(override_error({std::string(key) + "=[what]"}), HasSubstr("is a list, expected one of ")) << key;
  }
}

TEST_F(RecipeTest, EachTurnIsNotTrainedWithAllTokens) {
  EXPECT_THAT(override_error({"data.turns=each", "data.loss_on=all"}), HasSubstr("data.turns: each trains answers"));
}

TEST_F(RecipeTest, SizesAreBytes) {
  const auto resident = [&](const std::string& value) { return read("", {"mesh.resident=" + value}); };
  for (const auto& [written, bytes, printed] :
       std::vector<std::tuple<std::string, uint64_t, std::string>>{{"0", 0, "0"},
                                                                   {"20GiB", uint64_t{20} << 30, "20GiB"},
                                                                   {"\"1.5 GiB\"", uint64_t{1536} << 20, "1536MiB"},
                                                                   {"1MB", 1000000, "1000000"}}) {
    EXPECT_EQ(resident(written).mesh.resident.bytes, bytes) << written;
    EXPECT_THAT(recipe_to_yaml(resident(written)), HasSubstr("  resident: " + printed + "\n")) << written;
    EXPECT_EQ(resident(printed).mesh.resident.bytes, bytes) << printed;
  }
}

TEST_F(RecipeTest, ResumeIsAWordOrAFolder) {
  for (const char* word : {"auto", "never", "runs/a"})
    EXPECT_THAT(recipe_to_yaml(read("", {std::string("save.resume=") + word})),
                HasSubstr(std::string("  resume: ") + word + "\n"));
  EXPECT_EQ(read("").save.resume.kind, ResumeFrom::Kind::kAuto);
  EXPECT_EQ(read("save: {resume: ./auto}").save.resume.kind, ResumeFrom::Kind::kFolder);
}

TEST_F(RecipeTest, LayoutsAreAListOfWords) {
  EXPECT_THAT(read("").save.layouts, ElementsAre(SaveLayout::kPeft));
  const Recipe r = read("save: {layouts: [peft, vllm, vllm, peft-0.19.0]}");
  EXPECT_THAT(r.save.layouts, ElementsAre(SaveLayout::kPeft, SaveLayout::kVllm, SaveLayout::kPeft0190));
  EXPECT_THAT(read(recipe_to_yaml(r)).save.layouts, r.save.layouts);
  EXPECT_THAT(read("", {"save.layouts=sglang"}).save.layouts, ElementsAre(SaveLayout::kSglang));
  EXPECT_THAT(override_error({"save.layouts=[gguf]"}),
              HasSubstr("is 'gguf', expected one of peft, peft-0.19.0, per-expert, shared-outer, vllm and sglang"));
}

TEST_F(RecipeTest, NoRecomputationNeedsResidentWeights) {
  check_recompute(Recompute::kFull, false);
  check_recompute(Recompute::kNone, true);
  EXPECT_THAT(error_of([] { check_recompute(Recompute::kNone, false); }),
              HasSubstr("train.recompute: none needs every base weight on its rank"));
}

TEST_F(RecipeTest, AutoIsAWordThatIsDecidedLater) {
  const Recipe r = read("", {"mesh.ep=auto", "mesh.offload=auto", "train.recompute=auto"});
  EXPECT_EQ(r.mesh.ep, MeshConfig::kAuto);
  EXPECT_EQ(r.mesh.offload, Offload::kAuto);
  EXPECT_EQ(r.train.recompute, Recompute::kAuto);
  EXPECT_TRUE(leaves_choices(r));
  EXPECT_THAT(error_of([&] { require_no_choices(r); }), HasSubstr("mesh.ep: auto is decided by train and plan alone"));
  const std::string yaml = recipe_to_yaml(r);
  EXPECT_THAT(yaml, HasSubstr("  ep: auto\n"));
  EXPECT_EQ(recipe_to_yaml(read(yaml)), yaml);
  EXPECT_THAT(override_error({"mesh.ep=all"}), HasSubstr("expected auto or a whole number of at least 1"));
  EXPECT_FALSE(leaves_choices(read("mesh: {ep: 1}")));
}

TEST_F(RecipeTest, RulesAcrossKeys) {
  EXPECT_THAT(error("train: {steps: 5, epochs: 1}"),
              HasSubstr("recipe.yaml: both train.steps and train.epochs are given"));
  EXPECT_THAT(error("train: {epochs: 1}", {"train.steps=5"}), HasSubstr("both train.steps and train.epochs"));
  EXPECT_EQ(error("train: {epochs: 1}", {"train.steps=5", "train.epochs=null"}), "");
  EXPECT_THAT(
      error("train: {micro_batch_size: 1}", {"train.micro_batch_tokens=auto"}),
      HasSubstr("both train.micro_batch_size and train.micro_batch_tokens are given (set one of them to null)"));
  EXPECT_THAT(error("adapter: {lora_dropout: 0.05}"),
              HasSubstr("adapter.lora_dropout does not work together with adapter.target_parameters"));
  EXPECT_EQ(error("adapter: {lora_dropout: 0.05, target_parameters: []}"), "");
  EXPECT_EQ(error("adapter: {lora_dropout: 0.05, init_from: a}"), "");  // depends on that adapter
  EXPECT_THAT(error("adapter: {target_modules: [], target_parameters: []}"), HasSubstr("there is nothing to train"));
  EXPECT_EQ(error("adapter: {target_modules: []}"), "");
}

TEST_F(RecipeTest, BrokenYaml) {
  EXPECT_THAT(error("model:\n  path: a\n b: c\n"), HasSubstr("recipe.yaml: malformed YAML at line 3, column "));
  EXPECT_THAT(error("model: [a"), HasSubstr("malformed YAML at line 1"));
  EXPECT_THAT(error("model: {path: *nowhere}"), HasSubstr("malformed YAML at line 1"));
  EXPECT_THAT(error(std::string(100'000, '[')), HasSubstr("nested too deeply"));
  std::string json = "{\"data\":";
  for (int i = 0; i < 100'000; ++i) json += "{\"a\":";
  EXPECT_THAT(error(json), HasSubstr("nested too deeply"));
  EXPECT_THAT(error("model: {path: \"\xff\"}"), HasSubstr("not UTF-8 text"));
  EXPECT_THAT(error(std::string("model: {}\0", 10)), HasSubstr("not UTF-8 text"));
  EXPECT_THAT(error("model: {}\n---\ndata: {}\n"), HasSubstr("more than one YAML document"));
  EXPECT_THAT(error("- a"), HasSubstr("must be a map of sections"));
  EXPECT_THAT(error("just text"), HasSubstr("must be a map of sections"));
  EXPECT_THAT(error("model: path"), HasSubstr("section 'model' must be a map of keys"));
  EXPECT_THAT(error("? [a]\n: b"), HasSubstr("a key must be a word"));
  EXPECT_THAT(error("model: {? {a: b} : c}"), HasSubstr("a key must be a word"));
  EXPECT_THAT(error_of([&] { read_recipe((folder_ / "none.yaml").string(), {}); }),
              HasSubstr("none.yaml: cannot open"));
}

TEST_F(RecipeTest, KeysGivenTwice) {
  EXPECT_EQ(error("train: {seed: 1, seed: 2}"), "recipe.yaml: key 'train.seed' is given twice");
  EXPECT_EQ(error("train: {seed: 1}\ntrain: {steps: 2}"), "recipe.yaml: section 'train' is given twice");
  EXPECT_THAT(error(R"({"train": {"seed": 1, "seed": 2}})"), HasSubstr("key 'train.seed' is given twice"));
  EXPECT_THAT(error("data: {variables: {A: x, A: y}}"), HasSubstr("key 'data.variables' holds 'A' twice"));
}

TEST_F(RecipeTest, AliasesCannotExpandWithoutEnd) {
  EXPECT_THAT(error("data: {template_options: &a {x: *a}}"), HasSubstr("key 'data.template_options' is too large"));
  std::string text = "data:\n  template_options:\n    a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 12; ++i) {
    std::string before = "*a" + std::to_string(i - 1), list = before;
    for (int j = 0; j < 9; ++j) list += "," + before;
    text += "    a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + list + "]\n";
  }
  EXPECT_THAT(error(text), HasSubstr("key 'data.template_options' is too large"));
  EXPECT_EQ(read("model: {path: &p x}\nsave: {dir: *p}").save.dir, "x");
}

TEST_F(RecipeTest, MalformedOverrides) {
  for (const char* text : {"train.steps", "steps=4", "=4", "", "train=4", "4"}) {
    EXPECT_THAT(override_error({text}), HasSubstr("override '" + std::string(text) + "': expected section.key=value"));
  }
  EXPECT_THAT(override_error({"data.train=[a"}), HasSubstr("override 'data.train=[a': malformed YAML: "));
  EXPECT_THAT(override_error({"adapter.target_modules=*q_proj"}), HasSubstr("malformed YAML"));
  EXPECT_THAT(override_error({"model.path=\xff"}), HasSubstr("not UTF-8 text"));
  EXPECT_THAT(override_error({"data.train.x=a"}), HasSubstr("unknown key 'data.train.x'"));
}

TEST_F(RecipeTest, RequireForTraining) {
  auto missing = [](const std::vector<std::string>& overrides) {
    return error_of([&] { require_for_training(recipe_from_overrides(overrides)); });
  };
  EXPECT_THAT(missing({}), HasSubstr("missing key 'model.path'"));
  EXPECT_THAT(missing({"model.path=a"}), HasSubstr("missing key 'data.train'"));
  EXPECT_THAT(missing({"model.path=a", "data.train=[]"}), HasSubstr("missing key 'data.train'"));
  EXPECT_THAT(missing({"model.path=a", "data.train=b"}), HasSubstr("missing key 'save.dir'"));
  EXPECT_EQ(missing({"model.path=a", "data.train=b", "save.dir=c"}), "");
}

}  // namespace
}  // namespace moraine
