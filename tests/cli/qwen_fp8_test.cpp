// Qwen's FP8 releases, whole commands: init, plan, verify, score, convert and merge of them, and what ends in one line.
#include <gmock/gmock.h>

#include "base/json.h"
#include "cli/checkpoints.h"
#include "cli/run_moraine.h"
#include "formats/checkpoint_index.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

Json run_json(std::vector<std::string> args) {
  args.push_back("--json");
  const Ended ended = run_moraine(args);
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_EQ(ended.err, "");
  return parse_json(ended.out, "stdout");
}

std::string output_of(const std::vector<std::string>& args) {
  const Ended ended = run_moraine(args);
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  return ended.out;
}

class QwenFp8 : public testing::TestWithParam<const char*> {
 protected:
  double score(const fs::path& model, std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"score", "--model", model, "--tokens", golden_ / "batch.safetensors"});
    return run_json(more)["loss"].get<double>();
  }
  std::vector<std::string> adapted(std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"--adapter", golden_ / "lora" / "adapter"});
    return more;
  }
  // A copy whose tensors `edit` has changed.
  fs::path edited(const std::function<void(std::map<std::string, at::Tensor>&)>& edit) const {
    fs::remove_all(folder_ / "edited");
    fs::create_directories(folder_ / "edited");
    const CheckpointIndex index = read_checkpoint_index(golden_ / "model");
    std::map<std::string, at::Tensor> tensors;
    for (const auto& [name, tensor] : index.tensors)
      tensors[name] = read_tensor(index.files[tensor.file], tensor.entry);
    edit(tensors);
    write_tensors(folder_ / "edited" / "model.safetensors", {tensors.begin(), tensors.end()});
    fs::copy(golden_ / "model" / "config.json", folder_ / "edited");
    return folder_ / "edited";
  }
  fs::path with_config(const std::function<void(Json&)>& edit) const {
    Json config = read_json_file(golden_ / "model" / "config.json");
    edit(config);
    return folder_.write("config.json", config.dump());
  }

  const fs::path golden_ = golden_folder(GetParam());
  TempFolder folder_;
};
INSTANTIATE_TEST_SUITE_P(, QwenFp8, testing::Values("qwen3_moe-fp8", "qwen3_5_moe-fp8"), [](const auto& info) {
  return std::string(info.param).substr(0, std::string(info.param).find('-'));
});

TEST_P(QwenFp8, EveryLoadModeIsProvenAndHoldsWhatThePlanSays) {
  for (const std::string format : {"stored", "bfloat16"}) {
    const fs::path recipe = folder_.write(
        "recipe.yaml", "model: {path: " + (golden_ / "model").string() + ", base_format: " + format + "}\n");
    const Json plan = run_json({"plan", recipe, "--world", "3", "mesh.ep=3", "data.train=[x]", "save.dir=x"});
    for (const std::string mode : {"direct", "node", "rank0"}) {
      const Json report =
          run_json({"verify", recipe, "--ranks", "3", "mesh.ep=3", "load.mode=" + mode, "load.verify=full"});
      for (size_t rank = 0; rank < 3; ++rank) {
        EXPECT_TRUE(report["ranks"][rank]["verified"].get<bool>()) << mode << " " << format;
        EXPECT_EQ(report["ranks"][rank]["shard_bytes"], plan["ranks"][rank]["resident_base_bytes"])
            << mode << " " << format;
        if (mode != "direct") continue;
        EXPECT_EQ(report["ranks"][rank]["bytes_read"], plan["ranks"][rank]["bytes_read"]) << format;
      }
    }
  }
}

TEST_P(QwenFp8, ScoresLikeItsConvertedAndItsMergedCheckpoint) {
  EXPECT_THAT(output_of({"convert", "--model", golden_ / "model", "--out", folder_ / "bf16", "--dtype", "bfloat16"}),
              HasSubstr("were quantised"));
  EXPECT_FALSE(read_json_file(folder_ / "bf16" / "config.json").contains("quantization_config"));
  for (const auto& [name, tensor] : read_checkpoint_index(folder_ / "bf16").tensors) {
    EXPECT_EQ(tensor.entry.dtype, DType::kBF16) << name;  // multi-token prediction too
    EXPECT_FALSE(name.ends_with("_scale_inv")) << name;
  }
  const double stored = score(golden_ / "model", adapted());
  EXPECT_EQ(score(folder_ / "bf16", adapted()), stored);
  EXPECT_EQ(score(golden_ / "model", adapted({"model.base_format=bfloat16"})), stored);
  EXPECT_EQ(score(golden_ / "model", adapted({"model.base_format=bfloat16", "--ranks", "2", "mesh.ep=2"})), stored);
  EXPECT_EQ(score(golden_ / "model", adapted({"--ranks", "2", "mesh.ep=2"})), stored);
  EXPECT_EQ(score(golden_ / "model", adapted({"--ranks", "2"})), stored);

  EXPECT_THAT(output_of({"merge", "--model", golden_ / "model", "--adapter", golden_ / "lora" / "adapter", "--out",
                         folder_ / "merged"}),
              HasSubstr("are bfloat16 now"));
  // Of every weight that was dequantised in fp32 the sum in fp32, rounded once.
  output_of({"convert", "--model", golden_ / "model", "--out", folder_ / "fp32", "--dtype", "float32"});
  output_of(
      {"merge", "--model", folder_ / "fp32", "--adapter", golden_ / "lora" / "adapter", "--out", folder_ / "merged32"});
  const CheckpointIndex merged = read_checkpoint_index(folder_ / "merged"),
                        exact = read_checkpoint_index(folder_ / "merged32");
  EXPECT_EQ(merged.tensors.size(), exact.tensors.size());
  for (const auto& [name, tensor] : merged.tensors) {
    const CheckpointTensor& other = *exact.find(name);
    const at::Tensor fp32 = read_tensor(exact.files[other.file], other.entry);
    EXPECT_TRUE(at::equal(read_tensor(merged.files[tensor.file], tensor.entry), fp32.to(at::kBFloat16))) << name;
  }
  // Computed with in fp32 as the golden is.
  const double reference = golden_tensor(golden_ / "lora" / "forward.safetensors", "loss").item<float>();
  EXPECT_NEAR(score(folder_ / "merged", {"model.dtype=float32"}), reference, 2e-2);
}

TEST_P(QwenFp8, InitMakesTheHubsLayout) {
  output_of({"init", "--config", golden_ / "model" / "config.json", "--out", folder_ / "random"});
  const CheckpointIndex made = read_checkpoint_index(folder_ / "random"),
                        golden = read_checkpoint_index(golden_ / "model");
  for (const auto& [name, tensor] : made.tensors) {
    ASSERT_TRUE(golden.find(name)) << name;
    EXPECT_EQ(tensor.entry.shape, golden.find(name)->entry.shape) << name;
  }
  EXPECT_EQ(run_json({"inspect", folder_ / "random"})["parameters"],
            run_json({"inspect", golden_ / "model"})["parameters"]);
  EXPECT_TRUE(std::isfinite(score(folder_ / "random")));
}

TEST_P(QwenFp8, BadFilesEndInOneLine) {
  const std::string layer =
      std::string(GetParam()).starts_with("qwen3_5") ? "model.language_model.layers.1." : "model.layers.2.";
  const std::string scales = layer + "mlp.experts.1.up_proj.weight_scale_inv",
                    weight = layer + "self_attn.o_proj.weight";
  const auto expect = [&](const fs::path& model, const std::vector<std::string>& parts) {
    expect_input_error({"score", "--model", model, "--tokens", golden_ / "batch.safetensors"}, parts);
    expect_input_error({"inspect", model}, parts);
    expect_input_error({"convert", "--model", model, "--out", folder_ / "out", "--dtype", "bfloat16"}, parts);
  };
  expect(edited([&](auto& tensors) { tensors.erase(scales); }), {scales, "missing"});
  expect(edited([&](auto& tensors) { tensors[scales] = at::ones({5, 2}, at::kFloat); }), {scales, "has shape [5, 2]"});
  expect(edited([&](auto& tensors) { tensors[scales] = tensors[scales].to(at::kInt); }), {scales, "has dtype I32"});
  expect(edited([&](auto& tensors) { tensors[weight] = tensors[weight].view(at::kFloat8_e5m2); }), {weight, "F8_E5M2"});
  expect(edited([&](auto& tensors) { tensors[weight + "_scale"] = at::ones({1}); }),
         {weight + "_scale", "does not imply"});
}

TEST_P(QwenFp8, OtherQuantisationsAreNamedBeforeAnyFileIsMissed) {
  const fs::path recipe = folder_.write(
      "recipe.yaml", "model: {path: " + folder_.path().string() + "}\ndata: {train: [x]}\nsave: {dir: x}\n");
  const auto expect = [&](const char* key, const Json& value, const std::string& named) {
    const fs::path config = with_config([&](Json& json) { json["quantization_config"][key] = value; });
    expect_input_error({"plan", recipe}, {"config.json: quantization_config", named});
    expect_input_error({"init", "--config", config, "--out", folder_ / "out"},
                       {"config.json: quantization_config", named});
  };
  expect("quant_method", "gptq", "quant_method 'gptq'");
  expect("activation_scheme", "static", "activation_scheme 'static'");
  expect("weight_block_size", nullptr, "weight_block_size null");
}

}  // namespace
}  // namespace moraine
