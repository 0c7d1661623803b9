// What is wrong on the command line itself, and the help that prevents it.
#include <gmock/gmock.h>

#include "base/json.h"
#include "cli/run_moraine.h"

namespace moraine {
namespace {

using testing::HasSubstr;

TEST(Usage, HelpAndVersion) {
  const Ended help = run_moraine({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_EQ(help.err, "");
  for (const char* command : {"train", "score", "generate", "inspect", "report", "recipe", "tokenize", "init"}) {
    EXPECT_THAT(help.out, HasSubstr(command));
    const Ended own = run_moraine({command, "--help"});
    EXPECT_EQ(own.exit_code, 0);
    EXPECT_THAT(own.out, HasSubstr(std::string("moraine ") + command));
    EXPECT_EQ(own.err, "");
  }
  EXPECT_THAT(run_moraine({"--version"}).out, testing::StartsWith("moraine "));
}

TEST(Usage, NothingGiven) {
  const Ended ended = run_moraine({});
  EXPECT_EQ(ended.exit_code, 2);
  EXPECT_EQ(ended.out, "");
  EXPECT_THAT(ended.err, testing::StartsWith("moraine: error: "));
  EXPECT_LE(std::count(ended.err.begin(), ended.err.end(), '\n'), 6);
  EXPECT_THAT(ended.err, HasSubstr("generate"));
}

TEST(Usage, UnknownWords) {
  expect_input_error({"trian", "recipe.yaml"}, {"'trian'", "train"});
  expect_input_error({"frobnicate"}, {"'frobnicate'", "--help"});
  expect_input_error({"--json"}, {"'--json'"});
  expect_input_error({"score", "--modle", "m", "--tokens", "t"}, {"'--modle'", "--model"});
  expect_input_error({"score", "--modle=m", "--tokens", "t"}, {"'--modle'", "--model"});
  expect_input_error({"score", "-x", "--model", "m", "--tokens", "t"}, {"'-x'"});
  expect_input_error({"inspect", "one", "two"}, {"inspect", "'two'"});
  expect_input_error({"inspect", "one", "model.dtype=float32"}, {"'model.dtype=float32'"});
}

TEST(Usage, Recipe) {
  EXPECT_THAT(run_moraine({"recipe", "load.mode"}).out, testing::StartsWith("load.mode=direct"));
  EXPECT_EQ(parse_json(run_moraine({"recipe", "--schema"}).out, "schema")["additionalProperties"], false);
  expect_input_error({"recipe", "trian.steps"}, {"'trian.steps'", "did you mean 'train.steps'?"});
  expect_input_error({"recipe", "train", "--schema"}, {"more than one of"});
}

TEST(Usage, NoRanks) {
  expect_input_error({"train", "r.yaml", "--ranks", "0"}, {"--ranks", "1 or more"});
  expect_input_error({"score", "--ranks=0", "--model", "m", "--tokens", "t"}, {"--ranks", "1 or more"});
}

TEST(Usage, MissingArguments) {
  expect_input_error({"train"}, {"RECIPE.yaml is missing"});
  expect_input_error({"train", "train.steps=3"}, {"RECIPE.yaml is missing"});
  expect_input_error({"inspect"}, {"DIR is missing"});
  expect_input_error({"report"}, {"RUN_DIR is missing"});
  expect_input_error({"score", "--tokens", "t"}, {"--model DIR is missing"});
  expect_input_error({"score", "--model", "m"}, {"--tokens FILE is missing"});
  expect_input_error({"score", "--model"}, {"--model", "missing"});
  expect_input_error({"init", "--out", "o"}, {"--config FILE is missing"});
  expect_input_error({"generate", "--model", "m"}, {"--prompt", "--chat"});
  expect_input_error({"generate", "--model", "m", "--prompt", "a", "--chat", "b"}, {"both"});
  expect_input_error({"tokenize", "--model", "m"}, {"--messages"});
  expect_input_error({"tokenize", "--model", "m", "--text", "a", "--texts", "b"}, {"more than one"});
}

TEST(Usage, BadValues) {
  const std::vector<std::string> generate{"generate", "--model", "m", "--prompt", "p"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> args = generate;
    args.insert(args.end(), more.begin(), more.end());
    return args;
  };
  expect_input_error(with({"--max-new-tokens", "many"}), {"--max-new-tokens", "'many'", "whole number"});
  expect_input_error(with({"--max-new-tokens", "0"}), {"--max-new-tokens"});
  expect_input_error(with({"--temperature", "-1"}), {"--temperature"});
  expect_input_error(with({"--temperature", "nan"}), {"--temperature", "'nan'"});
  expect_input_error(with({"--seed", "-1"}), {"--seed", "'-1'"});
  expect_input_error(with({"--seed", "99999999999999999999999"}), {"--seed"});
  expect_input_error(with({"--seed", "1", "--seed", "2"}), {"--seed", "more than once"});
  expect_input_error(with({"--json=yes"}), {"--json", "no value"});
  expect_input_error(with({"--ranks", "0"}), {"--ranks"});
  expect_input_error(with({"model.dytpe=float32"}), {"model.dytpe", "model.dtype"});
  expect_input_error(with({"model.dtype=float8"}), {"model.dtype"});
  expect_input_error(with({"load.verify"}), {"'load.verify'", "section.key=value"});
  expect_input_error(with({"model.path=x"}), {"model.path", "--model"});
  expect_input_error(with({"--ranks", "3", "mesh.ep=2"}), {"mesh.ep", "2 does not divide 3 ranks"});
}

TEST(Usage, FlagsAndOverridesMixInAnyOrder) {
  // The missing folder is what is left to complain about.
  expect_input_error(
      {"score", "model.dtype=float32", "--model", "/nowhere", "load.verify=off", "--json", "--tokens", "t"},
      {"/nowhere"});
  expect_input_error({"train", "train.steps=3", "/nowhere.yaml", "train.seed=1"}, {"/nowhere.yaml"});
}

TEST(Usage, ScoreFlagsThatNeedOthers) {
  expect_input_error({"score", "--model", "m", "--tokens", "t", "--grads", "g"}, {"--grads", "--adapter"});
  expect_input_error({"score", "--model", "m", "--tokens", "t", "--logits"}, {"--logits", "--out"});
  expect_input_error({"score", "--model", "m", "--tokens", "t", "--out", "/nowhere/out"}, {"--out", "/nowhere"});
}

}  // namespace
}  // namespace moraine
