// init and inspect on every family's layout, quantised weights included.
#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "base/file.h"
#include "checkpoint/random_checkpoint.h"
#include "cli/checkpoints.h"
#include "cli/run_moraine.h"
#include "families.h"
#include "formats/checkpoint_index.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

fs::path config_of(const std::string& model) { return golden_folder("headers") / model / "config.json"; }

// A random checkpoint of a reference model's configuration.
class Random {
 public:
  explicit Random(const std::string& model, const std::string& dtype = "") {
    written = write_random_checkpoint(config_of(model), folder(), {.dtype = dtype, .seed = 3});
    index_ = read_checkpoint_index(folder());
  }
  fs::path folder() const { return folder_ / "model"; }
  at::Tensor operator()(const std::string& name) const {
    const CheckpointTensor* tensor = index_.find(name);
    if (!tensor) throw std::runtime_error("no tensor " + name);
    return read_tensor(index_.files[tensor->file], tensor->entry);
  }
  const CheckpointIndex& index() const { return index_; }

  RandomCheckpoint written;

 private:
  TempFolder folder_;
  CheckpointIndex index_;
};

Json inspect(const fs::path& folder) {
  const Ended ended = run_moraine({"inspect", folder, "--json"});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  return parse_json(ended.out, "stdout");
}

// What FP4 and FP8 weights stand for, by the formats' definitions.
at::Tensor dequantised(const Random& model, const std::string& name) {
  at::Tensor codes = model(name + ".weight");
  const at::Tensor scale = model(name + ".scale").view(at::kByte).to(at::kFloat).sub(127).exp2();
  if (codes.scalar_type() == at::kChar) {
    const at::Tensor bytes = codes.view(at::kByte).to(at::kLong);
    const at::Tensor table =
        at::tensor({0., .5, 1., 1.5, 2., 3., 4., 6., -0., -.5, -1., -1.5, -2., -3., -4., -6.}, at::kFloat);
    codes = at::stack({table.index({bytes.bitwise_and(15)}), table.index({bytes.div(16, "floor")})}, -1).flatten(-2);
  }
  const at::Tensor values = codes.to(at::kFloat);
  return values * scale.repeat_interleave(values.size(0) / scale.size(0), 0)
                      .repeat_interleave(values.size(1) / scale.size(1), 1);
}

TEST(Init, EveryFamilyPassesInspection) {
  for (const std::string& name : testing_support::golden_models()) {
    const Random model(name);
    const Json facts = inspect(model.folder());
    EXPECT_EQ(facts["parameters"], model.written.parameters) << name;
    EXPECT_EQ(facts["tensors"], model.written.tensors) << name;
    EXPECT_TRUE(facts["skipped"].empty()) << name;
    // What readers that map files want: every tensor starts at a multiple of its element's size.
    for (const SafetensorsHeader& file : model.index().files)
      for (const SafetensorsEntry& entry : file.entries)
        EXPECT_EQ(entry.offset % (dtype_bits(entry.dtype) / 8), 0u) << entry.name;
  }
}

TEST(Init, QuantisedWeightsHaveTheInitializerRange) {
  const Random model("deepseek_v4-fp8fp4");
  for (const char* name : {"layers.0.ffn.experts.3.w1", "layers.1.ffn.experts.0.w2", "layers.2.ffn.experts.1.w3"}) {
    EXPECT_EQ(model(std::string(name) + ".weight").scalar_type(), at::kChar);
    const at::Tensor weight = dequantised(model, name);
    EXPECT_NEAR(weight.std().item<double>(), 0.02, 0.001) << name;
    EXPECT_NEAR(weight.mean().item<double>(), 0, 0.001) << name;
  }
  double square = 0, elements = 0;  // a few blocks each, of one of two scales
  for (const auto& [name, tensor] : model.index().tensors) {
    if (tensor.entry.dtype != DType::kF8E4M3) continue;
    const at::Tensor weight = dequantised(model, name.substr(0, name.rfind('.')));
    ASSERT_TRUE(at::isfinite(weight).all().item<bool>()) << name;
    square += weight.square().sum().item<double>();
    elements += static_cast<double>(weight.numel());
  }
  EXPECT_NEAR(std::sqrt(square / elements), 0.02, 0.002);
  const at::Tensor scales = model("layers.0.ffn.experts.3.w1.scale").view(at::kByte);
  EXPECT_EQ(scales.max().item<int>() - scales.min().item<int>(), 1);
}

TEST(Init, HashLayersNameDifferentExperts) {
  const at::Tensor table = Random("deepseek_v4-bf16")("layers.1.ffn.gate.tid2eid");
  ASSERT_EQ(table.sizes(), (std::vector<int64_t>{160, 3}));
  std::set<int64_t> all;
  for (int64_t token = 0; token < 160; ++token) {
    std::set<int64_t> experts;
    for (int64_t k = 0; k < 3; ++k) experts.insert(table[token][k].item<int64_t>());
    EXPECT_EQ(experts.size(), 3u);
    all.merge(experts);
  }
  EXPECT_EQ(all, (std::set<int64_t>{0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST(Init, SmallParametersAreThoseOfANewModel) {
  const Random v4("deepseek_v4-fp32"), qwen("qwen3_5_moe-fp32");
  const auto is = [](const at::Tensor& tensor, double value) { return tensor.eq(value).all().item<bool>(); };
  EXPECT_TRUE(is(v4("layers.0.attn_norm.weight"), 1));
  EXPECT_TRUE(is(v4("layers.0.hc_attn_scale"), 1) && is(v4("hc_head_scale"), 1));
  EXPECT_TRUE(is(v4("layers.0.hc_ffn_base"), 0) && is(v4("layers.0.attn.attn_sink"), 0) &&
              is(v4("layers.3.ffn.gate.bias"), 0));
  EXPECT_NEAR(v4("layers.0.hc_attn_fn").std().item<double>(), 0.02, 0.002);
  const std::string layers = "model.language_model.layers.";
  EXPECT_TRUE(is(qwen(layers + "0.input_layernorm.weight"), 0)) << "its norms multiply by 1 + weight";
  EXPECT_TRUE(is(qwen(layers + "0.linear_attn.norm.weight"), 1)) << "this one by its weight";
  EXPECT_TRUE(is(qwen(layers + "0.linear_attn.dt_bias"), 1));
  const at::Tensor a_log = qwen(layers + "0.linear_attn.A_log");
  EXPECT_TRUE(a_log.le(std::log(16.0)).all().item<bool>() && a_log.ge(std::log(0.01)).all().item<bool>());
  EXPECT_NEAR(qwen(layers + "0.mlp.experts.gate_up_proj").std().item<double>(), 0.02, 0.001);
}

TEST(Init, WritesTheDtypeWhereTheConfigSaysIt) {
  const Random model("qwen3_5_moe-fp32", "bfloat16");
  const Json config = read_json_file(model.folder() / "config.json");
  EXPECT_EQ(config["text_config"]["dtype"], "bfloat16");
  EXPECT_FALSE(config.contains("dtype") || config.contains("torch_dtype"));
  EXPECT_EQ(inspect(model.folder())["stored_dtypes"]["BF16"]["tensors"], model.written.tensors);
}

TEST(Inspect, SaysWhatIsNotLoaded) {
  TempFolder folder;
  const fs::path model = folder / "model";
  write_random_checkpoint(config_of("deepseek_v4-fp8fp4"), model, {.dtype = "", .seed = 3, .max_file_bytes = 1 << 20});
  write_tensors(model / "mtp.safetensors",
                {{"mtp.0.norm.weight", at::ones({4})}, {"mtp.0.enorm.weight", at::ones({6})}});
  Json index = read_json_file(model / "model.safetensors.index.json");
  for (const char* name : {"mtp.0.norm.weight", "mtp.0.enorm.weight"}) index["weight_map"][name] = "mtp.safetensors";
  write_file_atomic(model / "model.safetensors.index.json", index.dump());

  const Json facts = inspect(model);
  EXPECT_EQ(facts["skipped"], (Json{{"multi-token prediction", {{"tensors", 2}, {"bytes", 40}}}}));
  // FP4 is two parameters a byte, scales are none: what the same model has without quantisation.
  Json plain = read_json_file(config_of("deepseek_v4-fp8fp4"));
  plain.erase("quantization_config");
  plain.erase("expert_dtype");
  EXPECT_EQ(facts["parameters"],
            write_random_checkpoint(folder.write("plain.json", plain.dump()), folder / "plain", {}).parameters);
  const std::string words = run_moraine({"inspect", model}).out;
  EXPECT_THAT(words, HasSubstr("multi-token prediction (2 tensors, 40 B)"));
}

}  // namespace
}  // namespace moraine
