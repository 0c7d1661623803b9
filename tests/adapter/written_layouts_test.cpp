// What a run writes: the facts about its adapter, PEFT 0.19.0's layout, and save.layouts.
#include <gmock/gmock.h>

#include <map>

#include "adapter/convert_adapter.h"
#include "adapter/make_adapter.h"
#include "adapter/peft_export.h"
#include "adapter/save_layouts.h"
#include "adapter/server_layouts.h"
#include "base/file.h"
#include "base/json.h"
#include "base/temp_folder.h"
#include "checkpoint/fingerprint.h"
#include "checkpoint/tensor_file.h"
#include "distributed/collectives/mesh_groups.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class WrittenLayouts : public testing::Test {
 protected:
  static std::map<std::string, at::Tensor> tensors_in(const fs::path& adapter) {
    const SafetensorsHeader header = read_safetensors_header(adapter / "adapter_model.safetensors");
    std::map<std::string, at::Tensor> tensors;
    for (const SafetensorsEntry& entry : header.entries) tensors[entry.name] = read_tensor(header, entry);
    return tensors;
  }
  void convert(const fs::path& from, AdapterFormat format, const fs::path& to) {
    convert_adapter(*layout_, from, read_adapter_selection(*layout_, from), format, to);
  }
  std::string file(const fs::path& folder) { return read_text_file(folder / "adapter_model.safetensors"); }

  TempFolder folder_;
  const fs::path golden_ = golden_folder("qwen3_moe-fp32"), adapter_ = golden_ / "lora" / "adapter";
  const std::unique_ptr<ModelLayout> layout_ = make_layout(HfConfig::read(golden_ / "model"));
};

TEST_F(WrittenLayouts, TheFactsAreOfTheFile) {
  MeshGroups groups = single_rank_groups();
  OpenedAdapter made = make_adapter(*layout_, {}, "model", {0, 8}, at::kCPU);
  WrittenAdapter written = export_adapter(made.state, made.config, folder_ / "adapter", *groups.ep);
  EXPECT_EQ(written.elements, made.state.num_parameters());
  EXPECT_EQ(written.tensors, 2 * written.lora_b);
  EXPECT_EQ(written.bytes, fs::file_size(folder_ / "adapter" / "adapter_model.safetensors"));
  EXPECT_EQ(written.xxh3, hash_file(File(folder_ / "adapter" / "adapter_model.safetensors")));
  EXPECT_EQ(static_cast<int64_t>(written.zero_b.size()), written.lora_b);  // of an adapter that is not trained
  testing::internal::CaptureStderr();
  warn_of_zero_b(written, folder_ / "adapter");
  const std::string warning = testing::internal::GetCapturedStderr();
  EXPECT_THAT(warning, HasSubstr("lora_B tensors are all zero after training and change nothing: base_model.model."));
  EXPECT_THAT(warning, HasSubstr(fmt::format("{} more", written.lora_b - 3)));

  made.state.b(made.state.entries().front()).fill_(1);
  written = export_adapter(made.state, made.config, folder_ / "adapter", *groups.ep);
  EXPECT_EQ(static_cast<int64_t>(written.zero_b.size()), written.lora_b - 1);
  EXPECT_EQ(written.to_json()["lora_b_zero"], written.lora_b - 1);
}

// With the factors swapped, B' · A' is the transpose of B · A: PEFT up to 0.19.0 adds the transpose of that.
TEST_F(WrittenLayouts, SwappedExpertsAreTheSameNumbers) {
  convert(adapter_, AdapterFormat::kPeft0190, folder_ / "swapped");
  const auto peft = tensors_in(adapter_), swapped = tensors_in(folder_ / "swapped");
  ASSERT_EQ(peft.size(), swapped.size());
  const int64_t E = 8;
  for (const auto& [name, values] : peft) {
    if (name.find(".experts.") == name.npos) {
      EXPECT_TRUE(at::equal(values, swapped.at(name))) << name;
      continue;
    }
    const bool is_a = name.ends_with("lora_A.weight");
    std::string other = name;
    other.replace(other.find(is_a ? "lora_A" : "lora_B"), 6, is_a ? "lora_B" : "lora_A");
    const int64_t r = values.size(is_a ? 0 : 1) / E;
    const at::Tensor expected = is_a ? values.view({E, r, -1}).permute({2, 1, 0}).reshape({-1, r * E})
                                     : values.view({-1, r, E}).permute({2, 1, 0}).reshape({E * r, -1});
    EXPECT_TRUE(at::equal(expected, swapped.at(other))) << name;
  }
  EXPECT_EQ(read_json_file(folder_ / "swapped" / "adapter_config.json")["peft_version"], "0.19.0");
  convert(folder_ / "swapped", AdapterFormat::kPeft, folder_ / "back");
  convert(adapter_, AdapterFormat::kPeft, folder_ / "peft");
  EXPECT_EQ(file(folder_ / "back"), file(folder_ / "peft"));
  EXPECT_EQ(read_json_file(folder_ / "back" / "adapter_config.json")["peft_version"], "0.21.0");
  convert(folder_ / "swapped", AdapterFormat::kPerExpert, folder_ / "per_expert");
  convert(folder_ / "per_expert", AdapterFormat::kPeft, folder_ / "back_again");
  EXPECT_EQ(file(folder_ / "back_again"), file(folder_ / "peft"));
  const ExpertRange some{1, 3};
  OpenedAdapter opened = open_adapter(*layout_, folder_ / "swapped", some, at::kCPU),
                before = open_adapter(*layout_, adapter_, some, at::kCPU);
  EXPECT_TRUE(at::equal(opened.state.experts().values, before.state.experts().values));
  // What is trained from it is written as PEFT has it now.
  AdapterConfig wanted;
  wanted.init_from = folder_ / "swapped";
  EXPECT_EQ(make_adapter(*layout_, wanted, "model", some, at::kCPU).config.peft_version, "");
  // The version says which it is, and the shapes must agree.
  Json config = read_json_file(folder_ / "swapped" / "adapter_config.json");
  config["peft_version"] = "0.19.1";
  folder_.write("swapped/adapter_config.json", config.dump());
  EXPECT_THAT(error_of([&] { open_adapter(*layout_, folder_ / "swapped", some, at::kCPU); }),
              HasSubstr("or by PEFT older than 0.19.1"));
}

// Which vLLM adapts, and SGLang does not.
TEST_F(WrittenLayouts, RoutersAreLinearLayersOfTheirOwn) {
  MeshGroups groups = single_rank_groups();
  AdapterConfig wanted;
  wanted.target_parameters = {"mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"};
  wanted.rank_pattern = {{"gate.weight", 2}};
  OpenedAdapter made = make_adapter(*layout_, wanted, "model", {0, 8}, at::kCPU);
  for (const AdapterEntry& entry : made.state.entries()) made.state.b(entry).normal_();
  export_adapter(made.state, made.config, folder_ / "adapter", *groups.ep);
  const AdapterSelection selection = read_adapter_selection(*layout_, folder_ / "adapter");
  const ChosenLayout chosen = choose_layout(SaveLayout::kVllm, "Qwen3-MoE", *layout_, folder_ / "adapter", selection);
  EXPECT_EQ(chosen.format, AdapterFormat::kPerExpert);
  convert(folder_ / "adapter", AdapterFormat::kPerExpert, folder_ / "per_expert");
  const auto peft = tensors_in(folder_ / "adapter"), per_expert = tensors_in(folder_ / "per_expert");
  for (const char* factor : {"lora_A", "lora_B"}) {
    const std::string key = fmt::format("base_model.model.model.layers.1.mlp.gate.{}.weight", factor);
    EXPECT_TRUE(at::equal(peft.at(key), per_expert.at(key)));
  }
  convert(folder_ / "per_expert", AdapterFormat::kPeft, folder_ / "back");
  EXPECT_EQ(file(folder_ / "back"), file(folder_ / "adapter"));
  EXPECT_THAT(
      error_of([&] { choose_layout(SaveLayout::kSglang, "Qwen3-MoE", *layout_, folder_ / "adapter", selection); }),
      HasSubstr("adapts model.layers.0.mlp.gate, which SGLang 0.5.23 does not"));
}

TEST_F(WrittenLayouts, AreRefusedBeforeAndWrittenAfterARun) {
  const std::vector<SaveLayout> layouts{SaveLayout::kVllm, SaveLayout::kPeft, SaveLayout::kPeft0190};
  check_save_layouts(layouts, "Qwen3-MoE", *layout_, read_adapter_selection(*layout_, adapter_));
  fs::copy(adapter_, folder_ / "adapter");
  write_save_layouts(layouts, "Qwen3-MoE", *layout_, folder_ / "adapter");
  convert(adapter_, AdapterFormat::kPerExpert, folder_ / "per_expert");
  EXPECT_EQ(file(folder_ / "adapter-vllm"), file(folder_ / "per_expert"));
  EXPECT_TRUE(missing_save_layouts(layouts, folder_ / "adapter").empty());
  EXPECT_FALSE(fs::exists(folder_ / "adapter-peft"));
  remove_save_layouts({SaveLayout::kVllm}, folder_ / "adapter");
  EXPECT_EQ(missing_save_layouts(layouts, folder_ / "adapter"), std::vector{SaveLayout::kVllm});
  write_save_layouts(layouts, "Qwen3-MoE", *layout_, folder_ / "adapter");
  EXPECT_EQ(file(folder_ / "adapter-vllm"), file(folder_ / "per_expert"));

  const fs::path v4 = golden_folder("deepseek_v4-fp32");
  const auto v4_layout = make_layout(HfConfig::read(v4 / "model"));
  EXPECT_THAT(error_of([&] {
                check_save_layouts(layouts, "DeepSeek-V4", *v4_layout,
                                   read_adapter_selection(*v4_layout, v4 / "lora" / "adapter"));
              }),
              HasSubstr("save.layouts: adapts layers.2.attn.compressor.wkv, which vLLM 0.33.0 does not"));
}

}  // namespace
}  // namespace moraine
