#include <gtest/gtest.h>

#include "adapter/adapter_state.h"
#include "adapter/make_adapter.h"
#include "adapter/peft_layout.h"
#include "adapter/target_selection.h"
#include "base/error.h"
#include "golden.h"

namespace moraine {
namespace {

std::vector<LoraModule> two_layers() {
  std::vector<LoraModule> modules;
  for (int64_t layer = 0; layer < 2; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    for (const char* name : {"self_attn.q_proj", "self_attn.k_proj"})
      modules.push_back({prefix + name, layer, name, 0, 8, 6});
    modules.push_back({prefix + "mlp.experts.gate_up_proj", layer, "mlp.experts.gate_up_proj", 4, 8, 10});
    modules.push_back({prefix + "mlp.experts.down_proj", layer, "mlp.experts.down_proj", 4, 5, 8});
  }
  for (LoraModule& module : modules) {
    module.r = 2;
    module.lora_alpha = 4;
    module.scaling = 2;
  }
  return modules;
}

std::string selection_error(const ModuleSelection& targets, const std::vector<std::string>& parameters) {
  try {
    select_targets(two_layers(), targets, {}, parameters);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::vector<std::string> selected(ModuleSelection targets, ModuleSelection excludes,
                                  std::vector<std::string> parameters) {
  std::vector<std::string> names;
  for (const LoraModule& m : select_targets(two_layers(), targets, excludes, parameters).modules)
    names.push_back(m.name);
  return names;
}

ModuleSelection names(std::vector<std::string> list) {
  return {.all_linear = false, .regex = {}, .names = std::move(list)};
}
ModuleSelection regex(std::string pattern) { return {.all_linear = false, .regex = std::move(pattern), .names = {}}; }

TEST(TargetSelection, NamesMatchAtADot) {
  EXPECT_EQ(selected(names({"q_proj"}), {}, {}).size(), 2u);
  EXPECT_EQ(selected(names({"layers.1.self_attn.q_proj"}), {}, {}),
            std::vector<std::string>{"model.layers.1.self_attn.q_proj"});
  EXPECT_NE(selection_error(names({"proj"}), {}), "");  // not at a dot
}

TEST(TargetSelection, RegexMatchesTheWholeName) {
  EXPECT_EQ(selected(regex(R"(.*\.1\..*q_proj)"), {}, {}), std::vector<std::string>{"model.layers.1.self_attn.q_proj"});
  EXPECT_NE(selection_error(regex("q_proj"), {}), "");
  EXPECT_NE(selection_error(regex("(q_proj"), {}).find("regular expression"), std::string::npos);
}

TEST(TargetSelection, AllLinearLeavesExpertsToTargetParameters) {
  ModuleSelection all{.all_linear = true, .regex = {}, .names = {}};
  EXPECT_EQ(selected(all, {}, {}).size(), 4u);
  EXPECT_EQ(selected(all, names({"k_proj"}), {"mlp.experts.down_proj"}).size(), 4u);
}

TEST(TargetSelection, APatternThatMatchesNothingIsAnErrorThatListsWhatThereIs) {
  const std::string error = selection_error(names({"q_proj", "w1"}), {});
  EXPECT_NE(error.find("adapter.target_modules: 'w1'"), std::string::npos) << error;
  EXPECT_NE(error.find("q_proj and k_proj"), std::string::npos) << error;
  EXPECT_NE(selection_error(names({"q_proj"}), {"experts.w1"}).find("adapter.target_parameters: 'experts.w1'"),
            std::string::npos);
}

// PEFT would find the indexer's linear layers by the names of the attention's, and make adapters there that nobody
// trains.
TEST(SelectAdapter, ExcludesWhatPeftWouldFindBesides) {
  const auto layout = make_layout(HfConfig::read(golden_folder("deepseek_v4-fp32") / "model"));
  AdapterConfig wanted;
  const std::vector<std::string> indexer{"indexer.gate_proj", "indexer.kv_proj", "indexer.q_b_proj"};
  EXPECT_EQ(select_adapter(*layout, wanted, "m").config.exclude_modules.names, indexer);
  wanted.exclude_modules.names = {"q_b_proj"};
  wanted.target_modules = {.all_linear = false, .regex = {}, .names = {"self_attn.kv_proj", "q_a_proj"}};
  EXPECT_EQ(select_adapter(*layout, wanted, "m").config.exclude_modules.names,
            (std::vector<std::string>{"q_b_proj", "indexer.kv_proj"}));
  wanted.exclude_modules = {.all_linear = false, .regex = ".*o_b.*", .names = {}};
  EXPECT_EQ(select_adapter(*layout, wanted, "m").config.exclude_modules.regex,
            R"((?:.*o_b.*)|.*\.(?:indexer\.kv_proj))");
  const auto qwen = make_layout(HfConfig::read(golden_folder("qwen3_5_moe-fp32") / "model"));
  EXPECT_TRUE(select_adapter(*qwen, AdapterConfig{}, "m").config.exclude_modules.empty());
}

TEST(PeftLayout, NestedWrappersOfOneExpertsModule) {
  const std::vector<PeftNames> both = peft_names(two_layers());
  EXPECT_EQ(both[0].lora_a, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
  EXPECT_EQ(both[2].lora_a, "base_model.model.model.layers.0.mlp.experts.base_layer.lora_A.weight");
  EXPECT_EQ(both[3].lora_b, "base_model.model.model.layers.0.mlp.experts.lora_B.weight");
  const std::vector<PeftNames> only_gate_up = peft_names({two_layers()[2]});
  EXPECT_EQ(only_gate_up[0].lora_a, "base_model.model.model.layers.0.mlp.experts.lora_A.weight");
}

TEST(PeftLayout, AIsExpertMajorAndBIsRankMajor) {
  at::Tensor a = at::arange(4 * 2 * 3).view({4, 2, 3}), b = at::arange(4 * 5 * 2).view({4, 5, 2});
  at::Tensor lora_a = experts_a_to_peft(a), lora_b = experts_b_to_peft(b);
  for (int64_t e = 0; e < 4; ++e) {
    for (int64_t rank = 0; rank < 2; ++rank) {
      EXPECT_TRUE(at::equal(lora_a[e * 2 + rank], a[e][rank]));
      EXPECT_TRUE(at::equal(lora_b.select(1, rank * 4 + e), b[e].select(1, rank)));
    }
  }
  EXPECT_TRUE(at::equal(experts_a_from_peft(lora_a, 4), a));
  EXPECT_TRUE(at::equal(experts_b_from_peft(lora_b, 4), b));
}

TEST(AdapterState, InitialValuesDoNotDependOnHowExpertsAreSplit) {
  AdapterState whole(two_layers(), {0, 4}, at::kCPU), part(two_layers(), {1, 2}, at::kCPU);
  whole.initialize(7);
  part.initialize(7);
  for (size_t i = 0; i < whole.entries().size(); ++i) {
    at::Tensor a = whole.a(whole.entries()[i]), a_part = part.a(part.entries()[i]);
    if (whole.entries()[i].module.num_experts > 0) a = a.narrow(0, 1, 2);
    EXPECT_TRUE(at::equal(a, a_part));
    const double bound = 1.0 / std::sqrt(static_cast<double>(whole.entries()[i].module.in_features));
    EXPECT_LE(a.abs().max().item<double>(), bound);
    EXPECT_GT(a.abs().max().item<double>(), bound * 0.5);
  }
  EXPECT_EQ(whole.b(whole.entries()[0]).abs().sum().item<float>(), 0);
}

}  // namespace
}  // namespace moraine
