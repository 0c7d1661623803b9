// What may be adapted, against adapters that PEFT made with target_modules "all-linear" and both expert parameters.
#include <gmock/gmock.h>

#include <map>

#include "models/golden_headers.h"

namespace moraine {
namespace {

using namespace testing_support;

class LoraModules : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(, LoraModules, testing::ValuesIn(golden_models()),
                         [](const auto& info) { return test_name(info.param); });

// PEFT wraps the parameters of one module inside each other: down_proj, the last one, is outermost.
std::string peft_prefix(const LoraModule& module) {
  std::string name = module.name;
  if (module.num_experts > 0) {
    const bool inner = name.ends_with(".gate_up_proj");
    name = name.substr(0, name.rfind('.')) + (inner ? ".base_layer" : "");
  }
  return "base_model.model." + name;
}

TEST_P(LoraModules, AreThoseOfTheReferenceAdapter) {
  const int64_t rank = GetParam() == "deepseek_v3-fp8" ? 2 : 4;
  std::map<std::string, std::vector<int64_t>> offered, adapter;
  // The references of some families name attention and experts alone.
  const bool adapts_shared_gate = !GetParam().starts_with("qwen2_moe") && !GetParam().starts_with("qwen3_next");
  const std::vector<LoraModule> modules = GoldenHeaders(GetParam()).layout()->lora_modules();
  EXPECT_EQ(modules.front().name, kEmbeddingModule);
  EXPECT_EQ(modules.back().name, kHeadModule);
  for (const LoraModule& module : modules) {
    if (!module.in_layer()) continue;  // not among all-linear's
    EXPECT_EQ(module.name, "model.layers." + std::to_string(module.layer) + "." + module.local_name);
    if (module.num_experts == 0 && module.name.ends_with(".weight")) continue;  // routers are not in these adapters
    if (module.local_name == "mlp.shared_expert_gate" && !adapts_shared_gate) continue;
    const int64_t rows = rank * std::max<int64_t>(module.num_experts, 1);
    offered[peft_prefix(module) + ".lora_A.weight"] = {rows, module.in_features};
    offered[peft_prefix(module) + ".lora_B.weight"] = {module.out_features, rows};
  }
  const Json tensors = read_json_file(headers_folder(GetParam()) / "adapter.json");
  for (const auto& [name, tensor] : tensors.items()) adapter[name] = tensor["shape"].get<std::vector<int64_t>>();
  EXPECT_EQ(offered, adapter);
}

}  // namespace
}  // namespace moraine
