#include "config/lora_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "base/temp_folder.h"

namespace moraine {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class LoraConfigTest : public testing::Test {
 protected:
  // Reads the golden adapter's config with these keys replaced.
  LoraConfig read(const Json& changes) {
    Json json = read_json_file(golden_ / "adapter_config.json");
    json.update(changes);
    folder_.write("adapter_config.json", json.dump());
    return read_lora_config(folder_.path());
  }
  std::string error(const Json& changes) {
    return error_of([&] { read(changes); });
  }
  std::filesystem::path golden_ = std::filesystem::path(MORAINE_TESTS_DIR) / "golden/qwen3_moe-fp32/lora/adapter";
  TempFolder folder_;
};

TEST_F(LoraConfigTest, ReadsWhatPeftWrote) {
  LoraConfig config = read_lora_config(golden_);
  EXPECT_EQ(config.r, 4);
  EXPECT_EQ(config.lora_alpha, 8);
  EXPECT_EQ(config.scaling(), 2);
  EXPECT_THAT(config.target_modules.names, ElementsAre("k_proj", "o_proj", "q_proj", "v_proj"));
  EXPECT_TRUE(config.exclude_modules.empty());
  EXPECT_THAT(config.target_parameters, ElementsAre("mlp.experts.down_proj", "mlp.experts.gate_up_proj"));
  EXPECT_EQ(config.base_model_name_or_path, "../../model");
  EXPECT_EQ(config.peft_version, "0.21.0");
}

TEST_F(LoraConfigTest, RoundTrips) {
  LoraConfig config;
  config.r = 3;
  config.lora_alpha = 4.5;
  config.target_modules.regex = ".*q_proj";
  config.exclude_modules.names = {"a", "b"};
  config.base_model_name_or_path = "models/é";
  folder_.write("adapter_config.json", lora_config_to_json(config));
  LoraConfig read = read_lora_config(folder_.path());
  EXPECT_EQ(read.r, 3);
  EXPECT_EQ(read.lora_alpha, 4.5);
  EXPECT_EQ(read.target_modules.regex, ".*q_proj");
  EXPECT_EQ(read.exclude_modules.names, config.exclude_modules.names);
  EXPECT_EQ(read.base_model_name_or_path, "models/é");
  EXPECT_EQ(read.peft_version, "0.21.0");
  config.target_modules = {true, {}, {}};
  folder_.write("adapter_config.json", lora_config_to_json(config));
  EXPECT_TRUE(read_lora_config(folder_.path()).target_modules.all_linear);
}

TEST_F(LoraConfigTest, WritesNumbersAndKeysAsPeftDoes) {
  std::string text = lora_config_to_json(read_lora_config(golden_));
  EXPECT_THAT(text, AllOf(HasSubstr("\"lora_alpha\": 8,"), HasSubstr("\"lora_dropout\": 0.0,"), HasSubstr("\"r\": 4,"),
                          HasSubstr("\"peft_type\": \"LORA\""), HasSubstr("\"exclude_modules\": null")));
  Json written = parse_json(text, "text"), golden = read_json_file(golden_ / "adapter_config.json");
  for (const auto& [key, value] : written.items()) EXPECT_EQ(value, golden[key]) << key;
}

TEST_F(LoraConfigTest, RefusesWhatIsNotHonoured) {
  EXPECT_EQ(error(Json::object()), "");
  EXPECT_THAT(error({{"peft_type", "IA3"}}), HasSubstr("adapter_config.json: peft_type 'IA3' is not supported"));
  for (const char* key : {"use_dora", "lora_bias", "fan_in_fan_out", "use_qalora", "some_new_feature"}) {
    EXPECT_THAT(error({{key, true}}), HasSubstr("key '" + std::string(key) + "' = 'true' is not supported"));
    EXPECT_EQ(error({{key, false}}), "");
  }
  EXPECT_THAT(error({{"bias", "all"}}), HasSubstr("key 'bias'"));
  EXPECT_THAT(error({{"bias", "lora_only"}}), HasSubstr("key 'bias'"));
  EXPECT_THAT(error({{"modules_to_save", Json::array({"lm_head"})}}),
              AllOf(HasSubstr("key 'modules_to_save'"), HasSubstr("give them adapters")));
  EXPECT_THAT(error({{"layers_to_transform", 0}, {"target_modules", ".*q_proj"}}),
              HasSubstr("layers_to_transform does not work together"));
  EXPECT_THAT(error({{"layers_to_transform", 0}, {"layers_pattern", {"layers", "h"}}}),
              HasSubstr("key 'layers_pattern' is 'h'"));
  EXPECT_THAT(error({{"trainable_token_indices", Json::array({1})}}), HasSubstr("key 'trainable_token_indices'"));
  EXPECT_THAT(error({{"alora_invocation_tokens", Json::array({1})}}), HasSubstr("key 'alora_invocation_tokens'"));
  for (const char* init : {"pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"}) {
    EXPECT_THAT(error({{"init_lora_weights", init}}), HasSubstr("init_lora_weights '" + std::string(init) + "'"));
  }
  EXPECT_EQ(error({{"init_lora_weights", "gaussian"}}), "");
}

TEST_F(LoraConfigTest, ReadsSettingsByModule) {
  folder_.write(
      "adapter_config.json",
      R"({"target_modules": ["q_proj"], "r": 4, "lora_alpha": 2, "use_rslora": true, "rank_pattern": {"z": 1, "a": 2},
                                           "alpha_pattern": {"z": 0.5, "a": 2}, "layers_to_transform": [1, 0], "layers_pattern": "layers"})");
  const LoraConfig config = read_lora_config(folder_.path());
  EXPECT_EQ(config.scaling(), 1);
  EXPECT_THAT(config.rank_pattern,
              ElementsAre(std::pair("z", 1), std::pair("a", 2)));  // PEFT takes the first that matches
  EXPECT_THAT(config.alpha_pattern, ElementsAre(std::pair("z", 0.5), std::pair("a", 2.0)));
  EXPECT_THAT(config.layers_to_transform, ElementsAre(1, 0));
  EXPECT_THAT(read({{"layers_to_transform", 3}}).layers_to_transform, ElementsAre(3));
  EXPECT_THAT(error({{"rank_pattern", {{"q_proj", 0}}}}),
              HasSubstr("key 'rank_pattern': 'q_proj' is 0, expected 1 to 1048576"));
  EXPECT_THAT(error({{"rank_pattern", {{"q_proj", "4"}}}}), HasSubstr("rank_pattern"));
  EXPECT_THAT(error({{"alpha_pattern", {{"q_proj", -1}}}}), HasSubstr("key 'alpha_pattern': 'q_proj' is -1"));
  EXPECT_THAT(error({{"alpha_pattern", {"q_proj"}}}), HasSubstr("alpha_pattern"));
}

TEST_F(LoraConfigTest, DropoutAndOldPeftWithTargetParameters) {
  EXPECT_THAT(error({{"lora_dropout", 0.1}}), HasSubstr("lora_dropout does not work together with target_parameters"));
  EXPECT_EQ(read({{"lora_dropout", 0.1}, {"target_parameters", nullptr}}).lora_dropout, 0.1);
  for (Json old : {Json("0.17.1"), Json(nullptr), Json("0.9"), Json("unknown")}) {
    EXPECT_THAT(error({{"peft_version", old}}), HasSubstr("stored in another layout")) << old;
    EXPECT_EQ(error({{"peft_version", old}, {"target_parameters", nullptr}}), "");
  }
  for (const char* swapped : {"0.18.0", "0.18.1", "0.19.0"}) {
    EXPECT_EQ(error({{"peft_version", swapped}}), "");
    EXPECT_TRUE(has_swapped_experts(swapped));
  }
  for (const char* not_swapped : {"0.19.1", "0.20.0", "0.17.1", "", "unknown"})
    EXPECT_FALSE(has_swapped_experts(not_swapped)) << not_swapped;
  for (const char* recent : {"0.19.1", "0.20.0", "0.21.1.dev0@abc", "1.0.0", "1"}) {
    EXPECT_EQ(error({{"peft_version", recent}}), "");
  }
}

TEST_F(LoraConfigTest, WrongValuesNameTheKey) {
  EXPECT_THAT(error({{"r", 0}}), HasSubstr("key 'r' is 0, expected 1 to 1048576"));
  EXPECT_THAT(error({{"r", 1'000'000'000'000'000}}), HasSubstr("key 'r' is 1000000000000000"));
  EXPECT_THAT(error({{"r", "4"}}), HasSubstr("key 'r' must be an integer"));
  EXPECT_THAT(error({{"lora_alpha", 0}}), HasSubstr("key 'lora_alpha' is 0"));
  EXPECT_THAT(error({{"lora_dropout", 1}}), HasSubstr("key 'lora_dropout' is 1"));
  EXPECT_THAT(error({{"target_modules", 3}}), HasSubstr("key 'target_modules' must be"));
  EXPECT_THAT(error({{"target_parameters", "a"}}), HasSubstr("key 'target_parameters' must be a list of strings"));
  EXPECT_THAT(error({{"target_modules", nullptr}, {"target_parameters", nullptr}}),
              HasSubstr("neither target_modules nor target_parameters"));
  EXPECT_THAT(error_of([&] { read_lora_config(folder_ / "none"); }), HasSubstr("none: no such folder"));
}

}  // namespace
}  // namespace moraine
