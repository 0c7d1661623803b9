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
    layout_ = make_layout(HfConfig::read(golden_ / "model"));
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
  // Every module has r 4 and scaling 2, and what is written says the same.
  void expect_plain(const Json& changes) {
    EXPECT_EQ(error(changes), "") << changes;
    OpenedAdapter opened = open_adapter(*layout_, folder_.path(), {0, 8}, at::kCPU);
    MeshGroups groups = single_rank_groups();
    fs::remove_all(folder_ / "written");
    export_adapter(opened.state, opened.config, folder_ / "written", *groups.ep);
    const OpenedAdapter written = open_adapter(*layout_, folder_ / "written", {0, 8}, at::kCPU);
    for (const OpenedAdapter* adapter : std::initializer_list<const OpenedAdapter*>{&opened, &written}) {
      for (const AdapterEntry& entry : adapter->state.entries()) {
        EXPECT_EQ(entry.module.r, 4) << changes << entry.module.name;
        EXPECT_EQ(entry.module.scaling, 2) << changes << entry.module.name;
      }
    }
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

// What PEFT's get_pattern_key finds: the first key, in the file's order, that matches the end of a name at a dot.
TEST_F(OpenAdapter, RanksAndScalingsByPattern) {
  for (auto& [name, tensor] : tensors_) {
    const bool grows = name.find("layers.1.self_attn.k_proj") != std::string::npos ||
                       name.find("layers.2.mlp.experts.lora") != std::string::npos;  // down_proj's
    if (grows) tensor = at::cat({tensor, tensor}, name.find("lora_A") != std::string::npos ? 0 : 1);
  }
  const Json config{{"r", 4},
                    {"lora_alpha", 8},
                    {"use_rslora", true},
                    {"rank_pattern", {{R"(layers\.1\..*k_proj)", 8}, {R"(2\.mlp\.experts\.down_proj)", 8}}},
                    {"alpha_pattern", {{"[qk]_proj", 3}, {"q_proj", 5}, {"none", 5}}}};
  EXPECT_EQ(error(config), "");
  const OpenedAdapter opened = open_adapter(*layout_, folder_.path(), {0, 8}, at::kCPU);
  EXPECT_THAT(opened.unmatched, ElementsAre("alpha_pattern 'none'", "alpha_pattern 'q_proj'"));
  for (const AdapterEntry& entry : opened.state.entries()) {
    const std::string& name = entry.module.name;
    const bool wide = name == "model.layers.1.self_attn.k_proj" || name == "model.layers.2.mlp.experts.down_proj";
    const bool weak = name.ends_with("q_proj") || name.ends_with("k_proj");
    EXPECT_EQ(entry.module.r, wide ? 8 : 4) << name;
    EXPECT_EQ(entry.module.scaling, (weak ? 3.0 : 8.0) / std::sqrt(wide ? 8.0 : 4.0)) << name;
  }
  const Json written = parse_json(lora_config_to_json(opened.config), "written");
  EXPECT_EQ(written["rank_pattern"], config["rank_pattern"]);
  EXPECT_EQ(written["alpha_pattern"], Json({{"[qk]_proj", 3}}));
  EXPECT_EQ(written["use_rslora"], true);
  // A table row for each rank and scaling that a pattern has.
  int64_t parameters = 0;
  for (const auto& row : opened.patterns) parameters += row.parameters;
  EXPECT_EQ(parameters, opened.state.num_parameters());
  EXPECT_EQ(opened.patterns.size(), 6u + 2);  // k_proj of layer 1, down_proj of layer 2
}

TEST_F(OpenAdapter, PatternsAreCheckedWithTheTensors) {
  EXPECT_THAT(error({{"rank_pattern", {{"k_proj", 8}}}}),
              AllOf(HasSubstr("k_proj.lora_A.weight has shape [4, "), HasSubstr("expected [8, ")));
  EXPECT_THAT(error({{"rank_pattern", {{"(k_proj", 8}}}}),
              AllOf(HasSubstr("adapter_config.json"), HasSubstr("regular expression")));
}

// adapter.expert_r is rank_pattern in the file, and keys that start from a folder must agree with it.
TEST_F(OpenAdapter, RanksOfARecipe) {
  AdapterConfig wanted;
  wanted.expert_r = 2;
  wanted.rank_pattern = {{"o_proj", 3}, {R"(layers\.3\.mlp\.experts\.down_proj)", 5}};
  const AdapterSelection made = select_adapter(*layout_, wanted, "model");
  for (const LoraModule& module : made.targets.modules) {
    const int64_t r = module.name == "model.layers.3.mlp.experts.down_proj" ? 5
                      : module.num_experts > 0                              ? 2
                      : module.name.ends_with("o_proj")                     ? 3
                                                                            : 8;
    EXPECT_EQ(module.r, r) << module.name;
    EXPECT_EQ(module.scaling, 16.0 / r) << module.name;
  }
  EXPECT_THAT(made.config.rank_pattern,
              ElementsAre(std::pair("o_proj", 3), std::pair(R"(layers\.3\.mlp\.experts\.down_proj)", 5),
                          std::pair("mlp.experts.gate_up_proj", 2), std::pair("mlp.experts.down_proj", 2)));
  MeshGroups groups = single_rank_groups();
  const OpenedAdapter adapter = make_adapter(*layout_, wanted, "model", {0, 8}, at::kCPU);
  export_adapter(adapter.state, adapter.config, folder_ / "ranks", *groups.ep);
  const auto from_folder = [&](auto&& change, std::vector<std::string> given) {
    AdapterConfig again;
    again.init_from = folder_ / "ranks";
    again.given = std::move(given);
    change(again);
    return error_of([&] { select_adapter(*layout_, again, "model"); });
  };
  EXPECT_EQ(from_folder([](AdapterConfig&) {}, {}), "");
  const auto as_made = [&](AdapterConfig& a) {
    a.expert_r = wanted.expert_r;
    a.rank_pattern = wanted.rank_pattern;
  };
  EXPECT_EQ(from_folder(as_made, {"expert_r", "rank_pattern"}), "");
  EXPECT_THAT(from_folder([](AdapterConfig& a) { a.expert_r = 3; }, {"expert_r"}),
              HasSubstr("adapter.expert_r: a rank or scaling disagrees with"));
  EXPECT_THAT(from_folder(
                  [](AdapterConfig& a) {
                    a.rank_pattern = {{"o_proj", 4}};
                  },
                  {"rank_pattern"}),
              HasSubstr("adapter.rank_pattern: a rank or scaling disagrees with"));
  EXPECT_THAT(from_folder([](AdapterConfig& a) { a.use_rslora = true; }, {"use_rslora"}),
              HasSubstr("adapter.use_rslora: a rank or scaling disagrees with"));
  wanted.layers_to_transform = {0, 4};
  EXPECT_THAT(error_of([&] { select_adapter(*layout_, wanted, "model"); }),
              HasSubstr("adapter.layers_to_transform: there is no layer 4 (this model's layers are 0 to 3)"));
  wanted.layers_to_transform = {2};
  EXPECT_THAT(select_adapter(*layout_, wanted, "model").config.target_modules.names,
              ElementsAre("model.layers.2.self_attn.q_proj", "model.layers.2.self_attn.k_proj",
                          "model.layers.2.self_attn.v_proj", "model.layers.2.self_attn.o_proj"));
  wanted.layers_to_transform.clear();
  wanted.rank_pattern = {{"w1", 3}};
  EXPECT_THAT(error_of([&] { select_adapter(*layout_, wanted, "model"); }),
              HasSubstr("adapter.rank_pattern 'w1': matches no adapted weight"));
  wanted.rank_pattern.clear();
  wanted.target_parameters.clear();
  EXPECT_THAT(error_of([&] { select_adapter(*layout_, wanted, "model"); }),
              HasSubstr("adapter.expert_r: is set, but no experts are adapted"));
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
  for (const char* module : {"score", "model.embed_positions", "model.layers.0.mlp.norm",
                             "model.layers.0.mlp.experts.3.gate_proj", "model.layers.9.self_attn.q_proj"}) {
    const bool embedding = std::string(module).ends_with("embed_positions");
    const std::string stem = std::string("base_model.model.") + module;
    tensors_ = plain;
    tensors_.emplace_back(stem + (embedding ? ".lora_embedding_A" : ".lora_A.weight"), some);
    tensors_.emplace_back(stem + (embedding ? ".lora_embedding_B" : ".lora_B.weight"), some);
    // Whether the configuration names it or not, in a list or a pattern.
    const std::string last = std::string(module).substr(std::string(module).rfind('.') + 1);
    for (const Json& targets : {Json({"q_proj", "k_proj", "v_proj", "o_proj", last}), Json({"q_proj"}), Json(".*")}) {
      EXPECT_THAT(error({{"target_modules", targets}}),
                  AllOf(HasSubstr(std::string("holds an adapter of '") + module + "'"),
                        HasSubstr(last == "q_proj"
                                      ? "which this model does not have (the adapter was made for another model)"
                                      : "not supported (this model's adapters can be of embed_tokens, k_proj, lm_head, "
                                        "mlp.experts.down_proj")));
    }
  }
}

// As PEFT has it: an adapter of a router is one of its parameter, stored under its module's name.
TEST_F(OpenAdapter, RoutersAreParameters) {
  AdapterConfig wanted;
  wanted.target_parameters = {"mlp.gate.weight", "mlp.experts.down_proj"};
  wanted.layers_to_transform = {1};  // linear layers'
  wanted.rank_pattern = {{"gate.weight", 3}};
  wanted.expert_r = 2;
  const OpenedAdapter made = make_adapter(*layout_, wanted, "model", {0, 8}, at::kCPU);
  MeshGroups groups = single_rank_groups();
  export_adapter(made.state, made.config, folder_ / "routers", *groups.ep);
  const SafetensorsHeader header = read_safetensors_header(folder_ / "routers" / "adapter_model.safetensors");
  EXPECT_EQ(header.entries.size(), 2u * (4 + 4 + 4));
  const SafetensorsEntry* b = header.find("base_model.model.model.layers.3.mlp.gate.lora_B.weight");
  ASSERT_NE(b, nullptr);
  EXPECT_THAT(b->shape, ElementsAre(8, 3));
  EXPECT_EQ(error_of([&] { open_adapter(*layout_, folder_ / "routers", {0, 8}, at::kCPU); }), "");
  wanted.lora_dropout = 0.1;
  wanted.target_parameters = {"mlp.gate.weight"};
  wanted.expert_r.reset();
  EXPECT_THAT(error_of([&] { select_adapter(*layout_, wanted, "model"); }),
              HasSubstr("adapter.lora_dropout: does not work together with adapters of experts or routers"));
  wanted.target_modules = {.all_linear = false, .regex = {}, .names = {"mlp.gate"}};
  EXPECT_THAT(error_of([&] { select_adapter(*layout_, wanted, "model"); }),
              AllOf(HasSubstr("adapter.target_modules: 'mlp.gate' matches nothing"),
                    HasSubstr("experts and routers (target_parameters): mlp.gate.weight, mlp.experts.gate_up_proj")));
}

// As PEFT saves them, with the base model's weights beside the factors.
TEST_F(OpenAdapter, EmbeddingAndHead) {
  const int64_t V = layout_->shape().vocab_size, D = layout_->shape().hidden_size;
  const std::string embedding = "base_model.model.model.embed_tokens.", head = "base_model.model.lm_head.";
  tensors_.insert(tensors_.end(), {{embedding + "lora_embedding_A", at::randn({4, V})},
                                   {embedding + "lora_embedding_B", at::randn({D, 4})},
                                   {embedding + "base_layer.weight", at::randn({V, D})},
                                   {head + "lora_A.weight", at::randn({4, D})},
                                   {head + "lora_B.weight", at::randn({V, 4})},
                                   {head + "base_layer.weight", at::randn({V, D})}});
  const Json targets{{"target_modules", {"q_proj", "k_proj", "v_proj", "o_proj", "embed_tokens", "lm_head"}}};
  OpenedAdapter opened = open_adapter(*layout_, write(targets), {0, 8}, at::kCPU);
  EXPECT_EQ(opened.state.entries().front().module.name, "model.embed_tokens");
  EXPECT_EQ(opened.state.entries().back().module.name, "lm_head");
  MeshGroups groups = single_rank_groups();
  const auto written = peft_tensors(opened.state, AdapterPart::kValues, *groups.ep);
  EXPECT_EQ(written.size(), tensors_.size() - 2);
  for (const auto& [name, values] : written)
    for (const auto& [given, wanted] : tensors_)
      if (name == given) EXPECT_TRUE(at::equal(values, wanted)) << name;

  AdapterConfig wanted;  // all-linear is of layers
  for (const LoraModule& module : select_adapter(*layout_, wanted, "model").targets.modules)
    EXPECT_TRUE(module.in_layer()) << module.name;
  wanted.target_modules = {.all_linear = false, .regex = {}, .names = {"embed_tokens", "lm_head"}};
  wanted.target_parameters.clear();
  OpenedAdapter made = make_adapter(*layout_, wanted, "model", {0, 8}, at::kCPU);
  ASSERT_EQ(made.state.entries().size(), 2u);
  const AdapterEntry& first = made.state.entries().front();
  EXPECT_EQ(made.state.a(first).abs().max().item<float>(), 0) << "PEFT's initial values of an embedding";
  EXPECT_NEAR(made.state.b(first).std().item<double>(), 1, 0.1);

  tensors_.back().second = at::zeros({V + 1, D});
  EXPECT_THAT(error(targets), HasSubstr("lm_head.base_layer.weight has shape"));
}

TEST_F(OpenAdapter, TargetsThatMatchNothingAreSaid) {
  const Json changes{{"target_modules", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "fc1"}}};
  const AdapterSelection selection = select(changes);
  EXPECT_THAT(selection.unmatched, ElementsAre("target_modules 'gate_proj'", "target_modules 'fc1'"));
  EXPECT_THAT(selection.config.target_modules.names, ElementsAre("q_proj", "k_proj", "v_proj", "o_proj"));
  testing::internal::CaptureStderr();
  warn_of_unmatched_targets(selection.unmatched, "adapter");
  warn_of_unmatched_targets({}, "adapter");
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "moraine: warning: adapter/adapter_config.json: target_modules 'gate_proj' and target_modules 'fc1' "
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
