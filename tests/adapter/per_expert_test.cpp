// The per-expert layout: PEFT's tensors cut and named as servers read them, and back, to the bit.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <map>

#include "adapter/convert_adapter.h"
#include "adapter/make_adapter.h"
#include "adapter/peft_export.h"
#include "adapter/server_keys.h"
#include "adapter/server_layouts.h"
#include "adapter/shared_outer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/temp_folder.h"
#include "distributed/collectives/mesh_groups.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::UnorderedElementsAreArray;

std::map<std::string, at::Tensor> tensors_in(const fs::path& adapter) {
  const SafetensorsHeader header = read_safetensors_header(adapter / "adapter_model.safetensors");
  std::map<std::string, at::Tensor> tensors;
  for (const SafetensorsEntry& entry : header.entries) tensors[entry.name] = read_tensor(header, entry);
  return tensors;
}

std::unique_ptr<ModelLayout> layout_of(const fs::path& golden) { return make_layout(HfConfig::read(golden / "model")); }

void convert(const ModelLayout& layout, const fs::path& from, AdapterFormat format, const fs::path& to) {
  const AdapterSelection selection = read_adapter_selection(layout, from);
  EXPECT_THAT(selection.unmatched, testing::IsEmpty());
  convert_adapter(layout, from, selection, format, to);
}

struct Family {
  std::string golden;
  std::vector<std::string> targets;  // of the written configuration
  std::string gate = "gate_proj", up = "up_proj", down = "down_proj";
  std::vector<std::pair<std::string, std::string>> names{};  // pieces of PEFT's, and what is there instead
};

Family deepseek_v4(const std::string& golden) {
  return {golden,
          {"wq_a", "wq_b", "wkv", "wo_b", "wgate", "w1", "w2", "w3"},
          "w1",
          "w3",
          "w2",
          {{"model.model.layers", "model.layers"},
           {"compressor.gate_proj", "compressor.wgate"},
           {"compressor.kv_proj", "compressor.wkv"},
           {"mlp.", "ffn."},
           {"self_attn.", "attn."},
           {"attn.kv_proj", "attn.wkv"},
           {"o_b_proj", "wo_b"},
           {"q_a_proj", "wq_a"},
           {"q_b_proj", "wq_b"},
           {"shared_experts.down_proj", "shared_experts.w2"},
           {"shared_experts.gate_proj", "shared_experts.w1"},
           {"shared_experts.up_proj", "shared_experts.w3"}}};
}

// adapter.experts: shared_outer, in the layout of servers that know it and in all others, and back.
TEST(SharedOuter, IsTheSameNumbersThereAndBack) {
  for (const char* name : {"qwen3_moe-fp32", "deepseek_v4-fp32"}) {
    const auto layout = layout_of(golden_folder(name));
    const int64_t E = layout->shape().num_experts;
    AdapterConfig wanted;
    wanted.r = 3;
    wanted.experts = ExpertFactors::kSharedOuter;
    OpenedAdapter made = make_adapter(*layout, wanted, "model", {0, E}, at::kCPU);
    for (const AdapterEntry& entry : made.state.entries()) made.state.b(entry).normal_();
    MeshGroups groups = single_rank_groups();
    TempFolder folder;
    export_adapter(made.state, made.config, folder / "peft", *groups.ep);
    const auto wanted_tensors = tensors_in(folder / "peft");
    fs::path last = folder / "peft";
    for (const auto& [step, format] : {std::pair{"stacked", AdapterFormat::kSharedOuter},
                                       {"each", AdapterFormat::kPerExpert},
                                       {"old", AdapterFormat::kPeft0190},
                                       {"again", AdapterFormat::kSharedOuter},
                                       {"back", AdapterFormat::kPeft}}) {
      convert(*layout, last, format, folder / step);
      last = folder / step;
    }
    const auto back = tensors_in(folder / "back"), stacked = tensors_in(folder / "stacked");
    ASSERT_EQ(back.size(), wanted_tensors.size());
    for (const auto& [key, values] : wanted_tensors) EXPECT_TRUE(at::equal(back.at(key), values)) << key;
    EXPECT_EQ(tensors_in(folder / "again").size(), stacked.size());
    const std::string experts = std::string(name).starts_with("deepseek")
                                    ? "base_model.model.layers.1.ffn.experts."
                                    : "base_model.model.model.layers.1.mlp.experts.";
    const auto shape = [&](const char* key) { return stacked.at(experts + key).sizes().vec(); };
    EXPECT_EQ(shape("w1.lora_A.weight")[0], 1);
    EXPECT_EQ(shape("w3.lora_B.weight")[0], E);
    EXPECT_EQ(shape("w2.lora_A.weight")[0], E);
    EXPECT_EQ(shape("w2.lora_B.weight"), (std::vector<int64_t>{1, layout->shape().hidden_size, 3}));

    if (std::string(name).starts_with("qwen3_moe")) {
      const auto report = [&](const char* server) {
        for (const Server& row : servers())
          if (row.name == server) return check_for_server(row, "Qwen3-MoE", *layout, folder / "stacked");
        throw std::runtime_error(server);
      };
      EXPECT_TRUE(report("sglang").is_read());
      EXPECT_GT(report("vllm").refused, 0);
      std::string said;
      for (const KeyRow& row : report("vllm").tensors) said += row.says;
      EXPECT_THAT(said, HasSubstr("--enable-moe-shared-loras"));
      EXPECT_GT(report("peft").ignored, 0);
    }

    // What says so goes on so, each layout by itself.
    for (const char* step : {"peft", "stacked", "each"}) {
      AdapterConfig from;
      from.init_from = (folder / step).string();
      const OpenedAdapter opened = make_adapter(*layout, from, "model", {0, E}, at::kCPU);
      EXPECT_EQ(opened.state.num_parameters(), made.state.num_parameters()) << step;
      EXPECT_TRUE(
          at::equal(opened.state.a(opened.state.entries().front()), made.state.a(made.state.entries().front())));
      from.experts = ExpertFactors::kEach;
      from.given = {"experts"};
      EXPECT_THAT(error_of([&] {
                    make_adapter(*layout, from, "model", {0, E}, at::kCPU);
                  }),
                  HasSubstr("adapter.experts: each (the folder says shared_outer) disagrees"));
    }
  }
}

// One value of one expert, in each layout that repeats what they share.
TEST(SharedOuter, IsComparedInEveryLayout) {
  const auto layout = layout_of(golden_folder("qwen3_moe-fp32"));
  AdapterConfig wanted;
  wanted.experts = ExpertFactors::kSharedOuter;
  OpenedAdapter made = make_adapter(*layout, wanted, "model", {0, 8}, at::kCPU);
  for (const AdapterEntry& entry : made.state.entries()) made.state.b(entry).normal_();
  MeshGroups groups = single_rank_groups();
  TempFolder folder;
  export_adapter(made.state, made.config, folder / "peft", *groups.ep);
  convert(*layout, folder / "peft", AdapterFormat::kPeft0190, folder / "old");
  convert(*layout, folder / "peft", AdapterFormat::kPerExpert, folder / "each");
  const auto spoil = [&](const std::string& adapter, const std::string& tensor) {
    const fs::path spoilt = folder / "spoilt";
    fs::remove_all(spoilt);
    fs::copy(folder / adapter, spoilt);
    auto tensors = tensors_in(spoilt);
    tensors.at(tensor).view(-1)[-1] += 1;
    write_tensors(spoilt / "adapter_model.safetensors", {tensors.begin(), tensors.end()},
                  adapter_metadata(ExpertFactors::kSharedOuter));
    return error_of([&] { convert(*layout, spoilt, AdapterFormat::kSharedOuter, folder / "stacked"); });
  };
  const std::string experts = "base_model.model.model.layers.1.mlp.experts.";
  for (const char* tensor : {"base_layer.lora_A.weight", "lora_B.weight"})
    EXPECT_THAT(spoil("peft", experts + tensor), HasSubstr(std::string(tensor) + " is not the same for all experts"));
  for (const char* tensor : {"base_layer.lora_B.weight", "lora_A.weight"})
    EXPECT_THAT(spoil("old", experts + tensor), HasSubstr(std::string(tensor) + " is not the same for all experts"));
  EXPECT_THAT(spoil("each", experts + "7.gate_proj.lora_A.weight"),
              HasSubstr("7.gate_proj.lora_A.weight is not the same for all experts"));
  EXPECT_THAT(spoil("each", experts + "7.up_proj.lora_A.weight"), HasSubstr("7.up_proj.lora_A.weight differs from"));
  EXPECT_THAT(spoil("each", experts + "7.down_proj.lora_B.weight"),
              HasSubstr("7.down_proj.lora_B.weight is not the same for all experts"));
  EXPECT_EQ(error_of([&] { convert(*layout, folder / "old", AdapterFormat::kSharedOuter, folder / "stacked"); }), "");
}

TEST(SharedOuter, IsRefusedWhereExpertsHaveOtherFactors) {
  const fs::path golden = golden_folder("qwen3_moe-fp32"), adapter = golden / "lora" / "adapter";
  const auto layout = layout_of(golden);
  TempFolder folder;
  EXPECT_THAT(error_of([&] { convert(*layout, adapter, AdapterFormat::kSharedOuter, folder / "stacked"); }),
              AllOf(HasSubstr("mlp.experts.base_layer.lora_A.weight is not the same for all experts"),
                    HasSubstr("adapter.experts: shared_outer")));
  AdapterConfig from;
  from.init_from = adapter.string();
  from.experts = ExpertFactors::kSharedOuter;
  from.given = {"experts"};
  EXPECT_THAT(error_of([&] {
                make_adapter(*layout, from, "model", {0, 8}, at::kCPU);
              }),
              HasSubstr("is not the same for all experts"));
  AdapterConfig none;
  none.target_parameters.clear();
  none.experts = ExpertFactors::kSharedOuter;
  EXPECT_THAT(error_of([&] { select_adapter(*layout, none, "model"); }), HasSubstr("no experts are adapted"));
}

// With experts under mlp.experts, and the attention's linear layers.
Family like_qwen3(const std::string& golden, const std::vector<std::string>& more = {}) {
  Family family{golden, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}};
  family.targets.insert(family.targets.end(), more.begin(), more.end());
  return family;
}

Family like_mixtral(const std::string& golden) {
  return {golden, {"q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"},
          "w1",   "w3",
          "w2",   {{"mlp.", "block_sparse_moe."}}};
}

class PerExpert : public testing::TestWithParam<Family> {};

TEST_P(PerExpert, IsTheSameNumbersThereAndBack) {
  const Family& family = GetParam();
  const fs::path golden = golden_folder(family.golden), adapter = golden / "lora" / "adapter";
  const auto layout = layout_of(golden);
  TempFolder folder;
  convert(*layout, adapter, AdapterFormat::kPerExpert, folder / "per_expert");
  convert(*layout, folder / "per_expert", AdapterFormat::kPeft, folder / "peft");
  const auto peft = tensors_in(adapter), written = tensors_in(folder / "per_expert"),
             back = tensors_in(folder / "peft");
  const int64_t E = layout->shape().num_experts, r = 4;

  size_t expected = 0;
  const auto expect = [&](const std::string& name, const at::Tensor& values) {
    ++expected;
    ASSERT_TRUE(written.contains(name)) << name;
    EXPECT_TRUE(at::equal(written.at(name), values)) << name;
  };
  for (const auto& [key, values] : peft) {
    ASSERT_TRUE(back.contains(key)) << key;
    EXPECT_TRUE(at::equal(back.at(key), values)) << key;
    std::string name = key;
    for (const auto& [from, to] : family.names)
      if (const size_t at = name.find(from); at != name.npos) name.replace(at, from.size(), to);
    const size_t experts = name.find(".experts.");
    if (experts == name.npos) {
      expect(name, values);
      continue;
    }
    const bool gate_up = name.find("base_layer") != name.npos, is_a = name.find("lora_A") != name.npos;
    const std::vector<std::string> projections =
        gate_up ? std::vector{family.gate, family.up} : std::vector{family.down};
    for (int64_t e = 0; e < E; ++e) {
      const at::Tensor of_expert = is_a ? values.slice(0, e * r, (e + 1) * r) : values.slice(1, e, values.size(1), E);
      for (size_t p = 0; p < projections.size(); ++p) {
        const at::Tensor part = is_a ? of_expert : of_expert.chunk(static_cast<int64_t>(projections.size()))[p];
        expect(fmt::format("{}.experts.{}.{}.{}.weight", name.substr(0, experts), e, projections[p],
                           is_a ? "lora_A" : "lora_B"),
               part);
      }
    }
  }
  EXPECT_EQ(written.size(), expected);
  EXPECT_EQ(back.size(), peft.size());

  convert(*layout, adapter, AdapterFormat::kPeft0190, folder / "swapped");
  convert(*layout, folder / "swapped", AdapterFormat::kPeft, folder / "peft_again");
  EXPECT_EQ(read_text_file(folder / "peft_again" / "adapter_model.safetensors"),
            read_text_file(folder / "peft" / "adapter_model.safetensors"));

  const Json before = read_json_file(adapter / "adapter_config.json"),
             config = read_json_file(folder / "per_expert" / "adapter_config.json"),
             after = read_json_file(folder / "peft" / "adapter_config.json");
  EXPECT_THAT(config["target_modules"].get<std::vector<std::string>>(), UnorderedElementsAreArray(family.targets));
  EXPECT_TRUE(config["target_parameters"].is_null());
  EXPECT_EQ(config["r"], 4);
  EXPECT_EQ(config["lora_alpha"], 8);
  for (const char* list : {"target_modules", "target_parameters"})
    EXPECT_THAT(after[list].get<std::vector<std::string>>(),
                UnorderedElementsAreArray(before[list].get<std::vector<std::string>>()))
        << list;
}

// What training starts from, and what it writes, has PEFT's names.
TEST_P(PerExpert, IsOpenedAsPeftsLayoutIs) {
  const fs::path golden = golden_folder(GetParam().golden), adapter = golden / "lora" / "adapter";
  const auto layout = layout_of(golden);
  TempFolder folder;
  convert(*layout, adapter, AdapterFormat::kPerExpert, folder / "per_expert");
  const ExpertRange some{1, 3};
  OpenedAdapter peft = open_adapter(*layout, adapter, some, at::kCPU);
  AdapterConfig wanted;
  wanted.init_from = folder / "per_expert";
  OpenedAdapter found = make_adapter(*layout, wanted, "model", some, at::kCPU);
  EXPECT_TRUE(at::equal(found.state.dense().values, peft.state.dense().values));
  EXPECT_TRUE(at::equal(found.state.experts().values, peft.state.experts().values));
  EXPECT_THAT(found.config.target_parameters, UnorderedElementsAreArray(peft.config.target_parameters));
  EXPECT_EQ(found.config.scaling(), peft.config.scaling());
}

// Names that are the same in both layouts do not say which it is; nor do experts, where there are none.
TEST_P(PerExpert, RoutersWithoutExpertsAreReadBack) {
  const auto layout = layout_of(golden_folder(GetParam().golden));
  const int64_t E = layout->shape().num_experts;
  MeshGroups groups = single_rank_groups();
  TempFolder folder;
  for (const bool alone : {true, false}) {
    AdapterConfig wanted;
    wanted.target_parameters = {"mlp.gate.weight"};
    if (alone) wanted.target_modules = {.all_linear = false, .regex = {}, .names = {}};
    OpenedAdapter made = make_adapter(*layout, wanted, "model", {0, E}, at::kCPU);
    for (const AdapterEntry& entry : made.state.entries()) made.state.b(entry).normal_();
    export_adapter(made.state, made.config, folder / "adapter", *groups.ep);
    const fs::path per_expert = folder / (alone ? "alone" : "with_linear"), back = per_expert.string() + "_back";
    convert(*layout, folder / "adapter", AdapterFormat::kPerExpert, per_expert);
    const Json config = read_json_file(per_expert / "adapter_config.json");
    EXPECT_TRUE(config["target_parameters"].is_null());
    convert(*layout, per_expert, AdapterFormat::kPeft, back);
    EXPECT_EQ(read_text_file(back / "adapter_model.safetensors"),
              read_text_file(folder / "adapter" / "adapter_model.safetensors"));
    EXPECT_FALSE(read_json_file(back / "adapter_config.json")["target_parameters"].is_null());
  }
}

INSTANTIATE_TEST_SUITE_P(
    AllFamilies, PerExpert,
    testing::Values(like_qwen3("qwen3_moe-fp32"),
                    like_qwen3("qwen3_5_moe-fp32", {"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj",
                                                    "shared_expert_gate"}),
                    like_mixtral("mixtral-fp32"), like_qwen3("olmoe-fp32"), deepseek_v4("deepseek_v4-fp32"),
                    deepseek_v4("deepseek_v4-fp8fp4"), like_qwen3("glm4_moe-fp32"), like_mixtral("minimax_m2-fp32"),
                    like_qwen3("qwen2_moe-fp32"), like_qwen3("ernie4_5_moe-fp32"),
                    like_qwen3("qwen3_next-fp32", {"in_proj_qkvz", "in_proj_ba", "out_proj"}), like_qwen3("dots1-fp32"),
                    like_qwen3("solar_open-fp32")),
    [](const auto& info) {
      std::string name = info.param.golden;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

// The golden adapter of Qwen3-MoE in that layout, to be spoilt.
class BrokenPerExpert : public testing::Test {
 protected:
  BrokenPerExpert() {
    convert(*layout_, golden_ / "lora" / "adapter", AdapterFormat::kPerExpert, folder_ / "good");
    tensors_ = tensors_in(folder_ / "good");
    config_ = read_json_file(folder_ / "good" / "adapter_config.json");
  }
  std::string error() {
    write_tensors(folder_ / "adapter_model.safetensors", {tensors_.begin(), tensors_.end()});
    folder_.write("adapter_config.json", config_.dump());
    return error_of([&] { open_adapter(*layout_, folder_.path(), {0, 8}, at::kCPU); });
  }
  at::Tensor& tensor(const std::string& name) { return tensors_.at(prefix_ + name); }

  const fs::path golden_ = golden_folder("qwen3_moe-fp32");
  const std::string prefix_ = "base_model.model.model.layers.1.mlp.experts.";
  std::unique_ptr<ModelLayout> layout_ = layout_of(golden_);
  TempFolder folder_;
  std::map<std::string, at::Tensor> tensors_;
  Json config_;
};

TEST_F(BrokenPerExpert, TensorsAreNamed) {
  EXPECT_EQ(error(), "");
  const auto good = tensors_;
  const auto with = [&](const auto& change) {
    tensors_ = good;
    change();
    return error();
  };
  EXPECT_THAT(with([&] { tensors_.erase(prefix_ + "5.up_proj.lora_B.weight"); }),
              HasSubstr("tensor " + prefix_ + "5.up_proj.lora_B.weight is missing"));
  EXPECT_THAT(
      with([&] { tensor("3.up_proj.lora_A.weight")[1][2] += 1; }),
      HasSubstr("tensor " + prefix_ + "3.up_proj.lora_A.weight differs from " + prefix_ + "3.gate_proj.lora_A.weight"));
  EXPECT_THAT(
      with([&] {
        tensor("7.down_proj.lora_A.weight") = tensor("7.down_proj.lora_A.weight").narrow(0, 0, 2).contiguous();
      }),
      AllOf(HasSubstr("tensor " + prefix_ + "7.down_proj.lora_A.weight has shape [2, "), HasSubstr("expected [4, ")));
  EXPECT_THAT(
      with([&] { tensors_[prefix_ + "8.down_proj.lora_A.weight"] = tensor("7.down_proj.lora_A.weight"); }),
      HasSubstr("holds an adapter of 'model.layers.1.mlp.experts.8.down_proj', which this model does not have"));
  EXPECT_THAT(with([&] {
                tensors_["base_model.model.model.layers.1.input_layernorm.lora_A.weight"] =
                    tensor("7.down_proj.lora_A.weight");
              }),
              HasSubstr("holds an adapter of 'model.layers.1.input_layernorm', which is not supported"));
  EXPECT_THAT(with([&] {
                tensors_["base_model.model.model.layers.1.mlp.gate.lora_A.weight"] =
                    tensor("7.down_proj.lora_A.weight");
              }),
              HasSubstr("unexpected tensor base_model.model.model.layers.1.mlp.gate.lora_A.weight"));
}

TEST_F(BrokenPerExpert, ConfigurationsAreNamed) {
  const Json good = config_;
  const auto with = [&](const Json& changes) {
    config_ = good;
    config_.update(changes);
    return error();
  };
  EXPECT_THAT(with({{"target_modules", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"}}}),
              HasSubstr("targets model.layers.0.mlp.experts.0.gate_proj but not model.layers.0.mlp.experts.0.up_proj"));
  EXPECT_THAT(with({{"target_modules", {"q_proj", "k_proj", "v_proj", "o_proj"}}}), HasSubstr("unexpected tensor"));
  EXPECT_THAT(with({{"target_parameters", {"mlp.experts.down_proj"}}}), HasSubstr("key 'target_parameters' is set"));
  EXPECT_THAT(with({{"use_rslora", true}}), HasSubstr("use_rslora is not supported"));
  EXPECT_THAT(with({{"rank_pattern", {{"gate_proj", 8}}}}),
              HasSubstr("rank_pattern gives r 8 to model.layers.0.mlp.experts.0.gate_proj and 4 to "
                        "model.layers.0.mlp.experts.0.up_proj (they are parts of one parameter here"));
  EXPECT_THAT(with({{"alpha_pattern", {{R"(experts\.3\..*)", 2}}}}),
              HasSubstr("alpha_pattern gives lora_alpha 8 to model.layers.0.mlp.experts.0.gate_proj and 2 to "
                        "model.layers.0.mlp.experts.3.gate_proj"));
  EXPECT_EQ(with({{"target_modules", R"(.*\.(self_attn\..*|experts\.\d+\..*))"}}), "");
}

// Experts' rank is the configuration's r there, so PEFT, which knows experts one by one only by r, finds it.
TEST(PerExpertRanks, AreThoseOfTheModules) {
  const fs::path golden = golden_folder("qwen3_moe-fp32");
  const auto layout = layout_of(golden);
  MeshGroups groups = single_rank_groups();
  TempFolder folder;
  AdapterConfig wanted;
  wanted.expert_r = 2;
  wanted.use_rslora = true;
  wanted.rank_pattern = {{"layers\\.1\\..*q_proj", 4}, {"k_proj", 3}};
  wanted.alpha_pattern = {{"down_proj", 4}};
  const OpenedAdapter made = make_adapter(*layout, wanted, "model", {0, 8}, at::kCPU);
  export_adapter(made.state, made.config, folder / "adapter", *groups.ep);
  convert(*layout, folder / "adapter", AdapterFormat::kPerExpert, folder / "per_expert");
  convert(*layout, folder / "per_expert", AdapterFormat::kPeft, folder / "peft");
  EXPECT_EQ(read_text_file(folder / "peft" / "adapter_model.safetensors"),
            read_text_file(folder / "adapter" / "adapter_model.safetensors"));
  const Json config = read_json_file(folder / "per_expert" / "adapter_config.json");
  EXPECT_EQ(config["r"], 2);
  EXPECT_EQ(config["rank_pattern"]["k_proj"], 3);
  EXPECT_EQ(config["rank_pattern"]["model.layers.1.self_attn.q_proj"], 4);
  EXPECT_FALSE(config["rank_pattern"].contains("gate_proj"));
  EXPECT_EQ(config["use_rslora"], false);
  const OpenedAdapter back = open_adapter(*layout, folder / "peft", {0, 8}, at::kCPU);
  for (size_t i = 0; i < back.state.entries().size(); ++i)
    EXPECT_NEAR(back.state.entries()[i].module.scaling, made.state.entries()[i].module.scaling, 1e-15);
}

// An adapter of some layers' experts alone, and of a shared expert's namesakes: the lists say exactly that.
TEST(PerExpertNames, OfAPartOfAModel) {
  const fs::path golden = golden_folder("qwen3_5_moe-fp32");
  const auto layout = layout_of(golden);
  MeshGroups groups = single_rank_groups();
  TempFolder folder;
  AdapterConfig wanted;
  wanted.target_modules = {.all_linear = false, .regex = {}, .names = {"q_proj"}};
  wanted.target_parameters = {"layers.1.mlp.experts.down_proj"};
  const OpenedAdapter made = make_adapter(*layout, wanted, "model", {0, 8}, at::kCPU);
  export_adapter(made.state, made.config, folder / "adapter", *groups.ep);
  convert(*layout, folder / "adapter", AdapterFormat::kPerExpert, folder / "per_expert");
  convert(*layout, folder / "per_expert", AdapterFormat::kPeft, folder / "peft");
  EXPECT_EQ(read_text_file(folder / "peft" / "adapter_model.safetensors"),
            read_text_file(folder / "adapter" / "adapter_model.safetensors"));
  const Json config = read_json_file(folder / "per_expert" / "adapter_config.json");
  EXPECT_EQ(config["target_modules"], Json({"down_proj", "q_proj"}));
  const auto excluded = config["exclude_modules"].get<std::vector<std::string>>();
  EXPECT_THAT(excluded, testing::Contains("shared_expert.down_proj"));
  EXPECT_THAT(excluded, testing::Contains("0.mlp.experts.7.down_proj"));
}

// An adapter of Qwen3.5's multimodal class stays one.
TEST(PerExpertNames, OfAMultimodalClass) {
  const fs::path golden = golden_folder("qwen3_5_moe-fp32");
  const auto layout = layout_of(golden);
  MeshGroups groups = single_rank_groups();
  TempFolder folder;
  OpenedAdapter opened = open_adapter(*layout, golden / "lora" / "adapter", {0, 8}, at::kCPU);
  opened.state.set_peft_class(PeftClass::kMultimodal);
  export_adapter(opened.state, opened.config, folder / "adapter", *groups.ep);
  convert(*layout, folder / "adapter", AdapterFormat::kPerExpert, folder / "per_expert");
  for (const auto& [name, values] : tensors_in(folder / "per_expert"))
    EXPECT_THAT(name, testing::StartsWith("base_model.model.model.language_model.layers."));
  convert(*layout, folder / "per_expert", AdapterFormat::kPeft, folder / "peft");
  EXPECT_EQ(read_text_file(folder / "peft" / "adapter_model.safetensors"),
            read_text_file(folder / "adapter" / "adapter_model.safetensors"));
}

TEST(ServerLayouts, AreWhatEachServerReads) {
  const auto of = [](const std::string& server, const std::string& golden, const std::string& family,
                     const fs::path& adapter) {
    const auto layout = layout_of(golden_folder(golden));
    return server_layout(server, family, *layout, adapter, read_adapter_selection(*layout, adapter));
  };
  const auto golden_adapter = [](const std::string& golden) { return golden_folder(golden) / "lora" / "adapter"; };
  const ServerLayout qwen3 = of("vllm", "qwen3_moe-fp32", "Qwen3-MoE", golden_adapter("qwen3_moe-fp32"));
  EXPECT_EQ(qwen3.format, AdapterFormat::kPerExpert);
  EXPECT_EQ(qwen3.arguments, "--enable-lora --max-lora-rank 8 --lora-modules NAME=");
  EXPECT_EQ(of("vllm", "qwen3_5_moe-fp32", "Qwen3.5-MoE", golden_adapter("qwen3_5_moe-fp32")).format,
            AdapterFormat::kPeft);
  const ServerLayout sglang = of("sglang", "qwen3_moe-fp32", "Qwen3-MoE", golden_adapter("qwen3_moe-fp32"));
  EXPECT_EQ(sglang.format, AdapterFormat::kPerExpert);
  EXPECT_EQ(sglang.arguments, "--enable-lora --max-lora-rank 4 --lora-paths NAME=");
  EXPECT_THAT(error_of([&] { of("sglang", "qwen3_5_moe-fp32", "Qwen3.5-MoE", golden_adapter("qwen3_5_moe-fp32")); }),
              HasSubstr("adapts model.layers.0.linear_attn.in_proj_qkv, which SGLang 0.5.23 does not"));
  EXPECT_THAT(error_of([&] { of("sglang", "mixtral-fp32", "Mixtral", golden_adapter("mixtral-fp32")); }),
              HasSubstr("block_sparse_moe.experts.0.w1, which SGLang 0.5.23 does not under that name"));
  const std::string v4 = "deepseek_v4-fp32";
  EXPECT_THAT(error_of([&] { of("vllm", v4, "DeepSeek-V4", golden_adapter(v4)); }),
              HasSubstr("adapts layers.2.attn.compressor.wkv, which vLLM 0.33.0 does not"));
  EXPECT_THAT(error_of([&] { of("sglang", v4, "DeepSeek-V4", golden_adapter(v4)); }),
              HasSubstr("SGLang 0.5.23 is not known to read any"));

  TempFolder folder;
  MeshGroups groups = single_rank_groups();
  const auto write = [&](const std::string& golden, AdapterConfig wanted) {
    const OpenedAdapter made = make_adapter(*layout_of(golden_folder(golden)), wanted, "model", {0, 8}, at::kCPU);
    export_adapter(made.state, made.config, folder / "adapter", *groups.ep);
    return folder / "adapter";
  };
  AdapterConfig wanted;
  wanted.exclude_modules.names = {"compressor.kv_proj", "compressor.gate_proj"};
  wanted.r = 65;
  EXPECT_THAT(of("vllm", v4, "DeepSeek-V4", write(v4, wanted)).arguments, HasSubstr("--max-lora-rank 128 "));
  wanted = {};
  wanted.target_parameters = {"mlp.experts.down_proj"};
  EXPECT_THAT(error_of([&] { of("vllm", "qwen3_5_moe-fp32", "Qwen3.5-MoE", write("qwen3_5_moe-fp32", wanted)); }),
              HasSubstr("adapts one of the experts' parameters of layer 0, but vLLM 0.33.0 takes both or none"));
  wanted.exclude_modules.regex = ".*(in_proj_.*|shared_expert_gate)";
  wanted.target_parameters = AdapterConfig{}.target_parameters;
  EXPECT_EQ(of("sglang", "qwen3_5_moe-fp32", "Qwen3.5-MoE", write("qwen3_5_moe-fp32", wanted)).format,
            AdapterFormat::kPerExpert);
  wanted.exclude_modules.regex = ".*v_proj";
  EXPECT_THAT(error_of([&] { of("sglang", "qwen3_moe-fp32", "Qwen3-MoE", write("qwen3_moe-fp32", wanted)); }),
              HasSubstr("q_proj, which SGLang 0.5.23 does not alone"));
}

}  // namespace
}  // namespace moraine
