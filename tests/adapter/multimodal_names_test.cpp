// Adapters that PEFT made of Qwen3.5's multimodal class: the same tensors under that class's names.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "adapter/make_adapter.h"
#include "adapter/peft_export.h"
#include "base/file.h"
#include "base/json.h"
#include "base/temp_folder.h"
#include "distributed/collectives/mesh_groups.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

std::string multimodal(const std::string& name) {
  const std::string_view stem = "base_model.model.model.";
  EXPECT_TRUE(name.starts_with(stem)) << name;
  return fmt::format("{}language_model.{}", stem, name.substr(stem.size()));
}

// The golden adapter as the multimodal class has it; `target_modules` goes into its adapter_config.json unless null.
void write_multimodal(const fs::path& from, const fs::path& to, const Json& target_modules) {
  fs::create_directories(to);
  const SafetensorsHeader header = read_safetensors_header(from / "adapter_model.safetensors");
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const SafetensorsEntry& entry : header.entries)
    tensors.emplace_back(multimodal(entry.name), read_tensor(header, entry));
  write_tensors(to / "adapter_model.safetensors", tensors);
  Json config = read_json_file(from / "adapter_config.json");
  config["exclude_modules"] = R"(.*\.visual\..*)";
  if (!target_modules.is_null()) config["target_modules"] = target_modules;
  write_file_atomic(to / "adapter_config.json", config.dump());
}

TEST(MultimodalNames, AreReadAndWrittenAgain) {
  TempFolder folder;
  const fs::path golden = golden_folder("qwen3_5_moe-fp32"), ours = golden / "lora" / "adapter";
  const auto layout = make_layout(HfConfig::read(golden / "model"));
  MeshGroups groups = single_rank_groups();
  OpenedAdapter expected = open_adapter(*layout, ours, {0, 8}, at::kCPU);
  // Names alone, and a pattern over whole names as trainers of multimodal models write it.
  const Json pattern =
      R"(^model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj|out_proj|in_proj_\w+|gate_proj|up_proj|down_proj|shared_expert_gate)$)";
  for (const Json& target_modules : {Json(), pattern}) {
    const fs::path theirs = folder / "theirs";
    write_multimodal(ours, theirs, target_modules);
    AdapterConfig wanted;
    wanted.init_from = theirs.string();
    OpenedAdapter found = make_adapter(*layout, wanted, "model", {0, 8}, at::kCPU);
    EXPECT_TRUE(at::equal(found.state.dense().values, expected.state.dense().values));
    EXPECT_TRUE(at::equal(found.state.experts().values, expected.state.experts().values));
    // What is written again is what was read.
    export_adapter(found.state, found.config, folder / "written", *groups.ep);
    const SafetensorsHeader read = read_safetensors_header(theirs / "adapter_model.safetensors"),
                            written = read_safetensors_header(folder / "written" / "adapter_model.safetensors");
    ASSERT_EQ(written.entries.size(), read.entries.size());
    for (const SafetensorsEntry& entry : read.entries) {
      ASSERT_TRUE(written.find(entry.name)) << entry.name;
      EXPECT_TRUE(at::equal(read_tensor(written, *written.find(entry.name)), read_tensor(read, entry))) << entry.name;
    }
    fs::remove_all(theirs);
    fs::remove_all(folder / "written");
  }
}

}  // namespace
}  // namespace moraine
