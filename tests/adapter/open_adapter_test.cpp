// PEFT's adapters that are more than one r and lora_alpha for a list of modules: read as PEFT reads them, or refused by
// name.
#include <gmock/gmock.h>

#include "adapter/full_match.h"
#include "adapter/make_adapter.h"
#include "adapter/peft_export.h"
#include "base/file.h"
#include "base/json.h"
#include "base/temp_folder.h"
#include "checkpoint/tensor_file.h"
#include "distributed/collectives/mesh_groups.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// The golden adapter: r 4, lora_alpha 8, four linear layers and both experts' parameters of each layer.
class OpenAdapter : public testing::Test {
 protected:
  OpenAdapter() {
    layout_ = make_layout(HfConfig::read(golden_ / "model"), "auto");
    const SafetensorsHeader header =
        read_safetensors_header(golden_ / "lora" / "adapter" / "adapter_model.safetensors");
    for (const SafetensorsEntry& entry : header.entries) tensors_.emplace_back(entry.name, read_tensor(header, entry));
  }

  fs::path write(const Json& changes) {
    Json config = read_json_file(golden_ / "lora" / "adapter" / "adapter_config.json");
    config.update(changes);
    folder_.write("adapter_config.json", config.dump());
    write_tensors(folder_ / "adapter_model.safetensors", tensors_);
    return folder_.path();
  }
  AdapterSelection select(const Json& changes) { return read_adapter_selection(*layout_, write(changes)); }
  std::string error(const Json& changes) {
    return error_of([&] { open_adapter(*layout_, write(changes), {0, 8}, at::kCPU); });
  }
  void expect_plain(const Json& changes) {
    const AdapterSelection selection = select(changes);
    EXPECT_EQ(selection.config.r, 4) << changes;
    EXPECT_EQ(selection.config.lora_alpha, 8) << changes;
    EXPECT_EQ(selection.config.scaling(), 2) << changes;
    lora_config_to_json(selection.config);  // asserts that it is plain
    EXPECT_EQ(error(changes), "") << changes;
  }

  const fs::path golden_ = golden_folder("qwen3_moe-fp32");
  std::unique_ptr<ModelLayout> layout_;
  std::vector<std::pair<std::string, at::Tensor>> tensors_;
  TempFolder folder_;
};

TEST_F(OpenAdapter, SettingsThatMeanAPlainAdapter) {
  expect_plain({{"rank_pattern", {{"k_proj", 4}}}});
  expect_plain({{"r", 2}, {"rank_pattern", {{".*", 4}}}});
  expect_plain({{"r", 2},
                {"rank_pattern",
                 {{"proj", 9}, {"[qkvo]_proj", 4}, {"q_proj", 8}, {R"(experts\..*)", 4}}}});  // the first that matches
  expect_plain(
      {{"lora_alpha", 2}, {"alpha_pattern", {{"self_attn\\.(q|k|v|o)_proj", 8}, {"gate_up_proj|down_proj", 8}}}});
  expect_plain({{"lora_alpha", 4}, {"use_rslora", true}});
  expect_plain({{"layers_to_transform", {0, 1, 2, 3}}});
  expect_plain({{"layers_to_transform", Json::array()}});
  EXPECT_THAT(select({{"rank_pattern", {{"w1", 16}}}, {"alpha_pattern", {{"w2", 1}}}}).unmatched,
              ElementsAre("rank_pattern 'w1'", "alpha_pattern 'w2'"));
}

TEST_F(OpenAdapter, SeveralRanksOrScalingsAreRefusedByKey) {
  EXPECT_THAT(
      error({{"rank_pattern", {{"k_proj", 8}}}}),
      AllOf(HasSubstr("adapter_config.json: rank_pattern gives r 4 to model.layers.0.self_attn.q_proj and r 8 to "
                      "model.layers.0.self_attn.k_proj"),
            HasSubstr("merge_and_unload")));
  EXPECT_THAT(error({{"alpha_pattern", {{"o_proj", 16}}}}), HasSubstr("alpha_pattern gives lora_alpha 8 to"));
  EXPECT_THAT(error({{"rank_pattern", {{"(k_proj", 8}}}}),
              AllOf(HasSubstr("adapter_config.json"), HasSubstr("regular expression")));
}

// What is written again names its modules one by one.
TEST_F(OpenAdapter, LayersToTransform) {
  std::erase_if(tensors_, [](const auto& tensor) {
    return tensor.first.find(".self_attn.") != std::string::npos &&
           tensor.first.find(".layers.1.") == std::string::npos &&
           tensor.first.find("layers.0.self_attn.q_proj") == std::string::npos;
  });
  const Json changes{{"layers_to_transform", 1},
                     {"target_modules", {"q_proj", "k_proj", "v_proj", "o_proj", "model.layers.0.self_attn.q_proj"}}};
  EXPECT_THAT(select(changes).config.target_modules.names,
              ElementsAre("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj",
                          "model.layers.1.self_attn.k_proj", "model.layers.1.self_attn.v_proj",
                          "model.layers.1.self_attn.o_proj"));
  OpenedAdapter opened = open_adapter(*layout_, write(changes), {0, 8}, at::kCPU);
  MeshGroups groups = single_rank_groups();
  export_adapter(opened.state, opened.config, folder_ / "written", *groups.ep);
  EXPECT_EQ(error_of([&] { open_adapter(*layout_, folder_ / "written", {0, 8}, at::kCPU); }), "");
  EXPECT_EQ(read_safetensors_header(folder_ / "written" / "adapter_model.safetensors").entries.size(), tensors_.size());
  EXPECT_THAT(error({{"layers_to_transform", {7}}, {"target_parameters", nullptr}}), HasSubstr("nothing is selected"));
}

TEST_F(OpenAdapter, AdaptersOfWhatCannotBeAdaptedAreNamed) {
  const std::vector<std::pair<std::string, at::Tensor>> plain = tensors_;
  const at::Tensor some = at::zeros({4, 4});
  for (const char* module : {"lm_head", "model.embed_tokens", "model.layers.0.mlp.gate",
                             "model.layers.0.mlp.experts.3.gate_proj", "model.layers.9.self_attn.q_proj"}) {
    const bool embedding = std::string(module).ends_with("embed_tokens");
    const std::string stem = std::string("base_model.model.") + module;
    tensors_ = plain;
    tensors_.emplace_back(stem + (embedding ? ".lora_embedding_A" : ".lora_A.weight"), some);
    tensors_.emplace_back(stem + (embedding ? ".lora_embedding_B" : ".lora_B.weight"), some);
    // Whether the configuration names it or not, in a list or a pattern.
    const std::string last = std::string(module).substr(std::string(module).rfind('.') + 1);
    for (const Json& targets : {Json({"q_proj", "k_proj", "v_proj", "o_proj", last}), Json({"q_proj"}), Json(".*")}) {
      EXPECT_THAT(
          error({{"target_modules", targets}}),
          AllOf(HasSubstr(std::string("holds an adapter of '") + module + "'"),
                HasSubstr(last == "q_proj"
                              ? "which this model does not have (the adapter was made for another model)"
                              : "not supported (this model's adapters can be of k_proj, mlp.experts.down_proj")));
    }
  }
}

TEST_F(OpenAdapter, TargetsThatMatchNothingAreSaid) {
  const Json changes{{"target_modules", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "lm_head"}}};
  const AdapterSelection selection = select(changes);
  EXPECT_THAT(selection.unmatched, ElementsAre("target_modules 'gate_proj'", "target_modules 'lm_head'"));
  EXPECT_THAT(selection.config.target_modules.names, ElementsAre("q_proj", "k_proj", "v_proj", "o_proj"));
  testing::internal::CaptureStderr();
  warn_of_unmatched_targets(selection.unmatched, "adapter");
  warn_of_unmatched_targets({}, "adapter");
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "moraine: warning: adapter/adapter_config.json: target_modules 'gate_proj' and target_modules 'lm_head' "
            "match nothing in this model "
            "and are left out\n");
}

TEST(FullMatch, APatternThatTakesTooLongIsAnError) {
  const FullMatch match("(a+)+b", "adapter.target_modules");
  EXPECT_TRUE(match("aab"));
  EXPECT_FALSE(match("aabc"));
  EXPECT_THAT(error_of([&] { match(std::string(64, 'a') + "cb"); }),
              AllOf(HasSubstr("adapter.target_modules"), HasSubstr("limit")));
}

}  // namespace
}  // namespace moraine
