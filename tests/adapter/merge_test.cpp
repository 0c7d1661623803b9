// Adapters folded into their base models: every tensor is W + scaling·B·A, or as it was.
#include "adapter/merge.h"

#include <gmock/gmock.h>

#include <map>

#include "adapter/make_adapter.h"
#include "adapter/open_adapter.h"
#include "adapter/peft_export.h"
#include "base/temp_folder.h"
#include "dequantised_golden.h"
#include "distributed/collectives/mesh_groups.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

// scaling·B·A in fp64 of every tensor of the checkpoint that the adapter changes, worked out from the names on disk
// alone.
std::map<std::string, at::Tensor> deltas(const fs::path& adapter, const CheckpointIndex& model,
                                         const std::map<std::string, std::string>& stored_as, double scaling,
                                         int64_t num_experts) {
  std::map<std::string, at::Tensor> deltas;
  const SafetensorsHeader header = read_safetensors_header(adapter / "adapter_model.safetensors");
  const std::string prefix = "base_model.model.", end = ".lora_A.weight";
  for (const SafetensorsEntry& entry : header.entries) {
    if (!entry.name.ends_with(end)) continue;
    std::string module = entry.name.substr(prefix.size(), entry.name.size() - prefix.size() - end.size());
    const at::Tensor a = read_tensor(header, entry).to(at::kDouble);
    const at::Tensor b = read_tensor(header, *header.find(prefix + module + ".lora_B.weight")).to(at::kDouble);
    const bool gate_up = module.ends_with("mlp.experts.base_layer"), down = module.ends_with("mlp.experts");
    for (const auto& [from, to] : stored_as)
      if (const size_t at = module.find(from); at != module.npos) module.replace(at, from.size(), to);
    if (!gate_up && !down) {
      deltas[module + ".weight"] = at::mm(b, a) * scaling;
      continue;
    }
    // PEFT: rows of A are expert-major, columns of B rank-major.
    const at::Tensor a_ERI = a.view({num_experts, -1, a.size(1)}), b_ORE = b.view({b.size(0), -1, num_experts});
    const at::Tensor delta = at::einsum("ore,eri->eoi", {b_ORE, a_ERI}) * scaling;
    const std::string experts = gate_up ? module.substr(0, module.rfind('.')) : module;
    const bool fused = model.find(experts + ".down_proj") != nullptr,
               v4 = model.find(experts + ".0.w1.weight") != nullptr;
    for (int64_t e = 0; e < num_experts; ++e) {
      const std::string of_expert = experts + "." + std::to_string(e) + ".";
      const auto halves = delta[e].chunk(2, 0);
      if (fused) break;
      if (gate_up) deltas[of_expert + (v4 ? "w1" : "gate_proj") + ".weight"] = halves[0];
      if (gate_up) deltas[of_expert + (v4 ? "w3" : "up_proj") + ".weight"] = halves[1];
      if (down) deltas[of_expert + (v4 ? "w2" : "down_proj") + ".weight"] = delta[e];
    }
    if (fused) deltas[experts + (gate_up ? ".gate_up_proj" : ".down_proj")] = delta;
  }
  return deltas;
}

// PEFT's names of modules, in pieces, and what the files have instead.
const std::map<std::string, std::string> kMultimodal{{"model.layers", "model.language_model.layers"}};
const std::map<std::string, std::string> kDeepseek{{"compressor.gate_proj", "compressor.wgate"},
                                                   {"compressor.kv_proj", "compressor.wkv"},
                                                   {"mlp.", "ffn."},
                                                   {"model.layers", "layers"},
                                                   {"self_attn.", "attn."},
                                                   {"attn.kv_proj", "attn.wkv"},
                                                   {"o_b_proj", "wo_b"},
                                                   {"q_a_proj", "wq_a"},
                                                   {"q_b_proj", "wq_b"},
                                                   {"shared_experts.down_proj", "shared_experts.w2"},
                                                   {"shared_experts.gate_proj", "shared_experts.w1"},
                                                   {"shared_experts.up_proj", "shared_experts.w3"}};

struct Golden {
  std::string name;
  std::map<std::string, std::string> stored_as;
};

class MergeGoldens : public testing::TestWithParam<Golden> {};

TEST_P(MergeGoldens, EveryTensorIsTheSumOrAsItWas) {
  const fs::path golden = golden_folder(GetParam().name);
  TempFolder folder;
  const CheckpointIndex before = read_checkpoint_index(golden / "model");
  const LoraConfig config = read_lora_config(golden / "lora" / "adapter");
  const auto layout = make_layout(HfConfig::read(golden / "model"));
  const MergedCheckpoint merged =
      merge_adapter(golden / "model", {{golden / "lora" / "adapter"}}, folder / "out", 300'000, 2);
  const CheckpointIndex after = read_checkpoint_index(folder / "out");
  const auto expected =
      deltas(golden / "lora" / "adapter", before, GetParam().stored_as, config.scaling(), layout->shape().num_experts);
  EXPECT_EQ(merged.written.dequantized > 0, GetParam().name.ends_with("fp8fp4"));
  int64_t found = 0;
  for (const auto& [name, tensor] : after.tensors) {
    const at::Tensor is = tensor_of(after, name);
    const auto delta = expected.find(name);
    found += delta != expected.end();
    const at::Tensor base = plain_tensor_of(before, name);
    ASSERT_EQ(is.scalar_type(), base.scalar_type()) << name;
    if (delta == expected.end()) {
      EXPECT_TRUE(at::equal(is, base)) << name;
      continue;
    }
    const at::Tensor sum = base.to(at::kDouble) + delta->second;
    EXPECT_GT((sum - base.to(at::kDouble)).abs().max().item<double>(), 1e-3) << name;
    // Rounded once from an fp32 sum that is off by a few of its last bits.
    const at::Tensor limit = sum.abs() * (is.scalar_type() == at::kFloat ? 0x1p-24 : 0x1p-8 * 1.01) + 1e-6;
    EXPECT_TRUE(((is.to(at::kDouble) - sum).abs() <= limit).all().item<bool>()) << name;
  }
  EXPECT_EQ(found, static_cast<int64_t>(expected.size()));
  EXPECT_GT(merged.linear_layers, 0);
  EXPECT_EQ(merged.expert_parameters, 2 * layout->shape().num_hidden_layers);
}

INSTANTIATE_TEST_SUITE_P(AllFamilies, MergeGoldens,
                         testing::Values(Golden{"qwen3_moe-fp32", {}}, Golden{"qwen3_moe-bf16", {}},
                                         Golden{"qwen3_5_moe-fp32", kMultimodal},
                                         Golden{"qwen3_5_moe-bf16", kMultimodal}, Golden{"deepseek_v4-fp32", kDeepseek},
                                         Golden{"deepseek_v4-bf16", kDeepseek},
                                         Golden{"deepseek_v4-fp8fp4", kDeepseek}),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Merge, CountsEachKindOfWeight) {
  const fs::path model = golden_folder("qwen3_moe-fp32") / "model";
  const auto layout = make_layout(HfConfig::read(model));
  AdapterConfig wanted;
  wanted.target_modules = {.all_linear = false, .regex = {}, .names = {"embed_tokens", "lm_head", "q_proj"}};
  wanted.target_parameters = {"mlp.gate.weight", "mlp.experts.down_proj"};
  MeshGroups groups = single_rank_groups();
  TempFolder folder;
  const OpenedAdapter made = make_adapter(*layout, wanted, "model", {0, layout->shape().num_experts}, at::kCPU);
  export_adapter(made.state, made.config, folder / "adapter", *groups.ep);
  const MergedCheckpoint merged = merge_adapter(model, {{folder / "adapter"}}, folder / "out", 5'000'000, 1);
  const int64_t layers = layout->shape().num_hidden_layers;
  EXPECT_EQ(merged.linear_layers, layers + 1);  // q_proj and the head
  EXPECT_EQ(merged.embeddings, 1);
  EXPECT_EQ(merged.routers, layers);
  EXPECT_EQ(merged.expert_parameters, layers);
}

}  // namespace
}  // namespace moraine
