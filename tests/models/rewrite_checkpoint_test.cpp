// Checkpoints written anew: quantised weights dequantised, dtypes converted, everything else as it was.
#include "checkpoint/rewrite_checkpoint.h"

#include <gmock/gmock.h>

#include "base/error.h"
#include "base/file.h"
#include "base/temp_folder.h"
#include "checkpoint/check_checkpoint.h"
#include "dequantised_golden.h"
#include "tensor/quantize.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

CheckpointIndex convert(const fs::path& model, const fs::path& out, DType dtype, uint64_t max_file_bytes = 300'000) {
  rewrite_checkpoint(open_checkpoint(model, DtypeChoice::kBFloat16), out,
                     {.dtype = dtype, .max_file_bytes = max_file_bytes, .num_threads = 2});
  return read_checkpoint_index(out);
}

TEST(RewriteCheckpoint, DequantisesFp8AndFp4) {
  const fs::path golden = golden_folder("deepseek_v4-fp8fp4");
  const CheckpointIndex before = read_checkpoint_index(golden / "model");
  for (const auto& [dtype, torch] : {std::pair{DType::kBF16, at::kBFloat16}, std::pair{DType::kF32, at::kFloat}}) {
    TempFolder folder;
    const CheckpointIndex after = convert(golden / "model", folder / "out", dtype);
    for (const auto& [name, tensor] : before.tensors) {
      const bool is_scale = name.ends_with(".scale");
      ASSERT_EQ(after.find(name) == nullptr, is_scale) << name;
      if (is_scale) continue;
      const DType stored = tensor.entry.dtype, written = after.find(name)->entry.dtype;
      if (stored == DType::kI64 || stored == DType::kF32) {
        EXPECT_EQ(written, stored) << name;
        EXPECT_TRUE(at::equal(tensor_of(after, name), tensor_of(before, name))) << name;
      } else {
        EXPECT_EQ(written, dtype) << name;
        EXPECT_TRUE(at::equal(tensor_of(after, name), plain_tensor_of(before, name).to(torch))) << name;
      }
    }
    // The same checkpoint without quantisation, as moraine and transformers see it.
    const Json config = read_json_file(folder / "out" / "config.json");
    EXPECT_FALSE(config.contains("quantization_config"));
    EXPECT_FALSE(config.contains("expert_dtype"));
    EXPECT_EQ(config["torch_dtype"], dtype == DType::kBF16 ? "bfloat16" : "float32");
    EXPECT_EQ(read_text_file(folder / "out" / "generation_config.json"),
              read_text_file(golden / "model" / "generation_config.json"));
    const auto layout = make_layout(HfConfig::read(folder / "out"));
    check_checkpoint(image_specs(*layout, stored_in(after)), after,
                     [&](const std::string& name) { return layout->why_skipped(name); });
    EXPECT_GT(after.files.size(), 1);
  }
}

// What stays in fp32 is what the bfloat16 golden has in fp32, in the layers of multi-token prediction too.
TEST(RewriteCheckpoint, KeepsWhatTheFamilyKeepsInFp32) {
  TempFolder folder;
  const CheckpointIndex before = read_checkpoint_index(golden_folder("deepseek_v4-fp32") / "model"),
                        golden = read_checkpoint_index(golden_folder("deepseek_v4-bf16") / "model"),
                        after = convert(before.folder, folder / "out", DType::kBF16);
  EXPECT_EQ(after.tensors.size(), before.tensors.size());
  for (const auto& [name, tensor] : after.tensors) {
    EXPECT_EQ(tensor.entry.dtype, golden.find(name)->entry.dtype) << name;
    const at::Tensor was = tensor_of(before, name), is = tensor_of(after, name);
    EXPECT_TRUE(at::equal(is, was.to(is.scalar_type()))) << name;
  }
}

TEST(RewriteCheckpoint, KeepsWhatAReleaseStoresWiderThanItsEmbedding) {
  TempFolder folder;
  const fs::path model = golden_folder("qwen3_5_moe-fp32") / "model";
  const CheckpointIndex all = convert(model, folder / "bf16", DType::kBF16, 1'000'000'000);
  EXPECT_EQ(read_json_file(folder / "bf16" / "config.json")["text_config"]["dtype"], "bfloat16");
  std::vector<std::pair<std::string, at::Tensor>> mixed;
  for (const auto& [name, tensor] : all.tensors) {
    EXPECT_EQ(tensor.entry.dtype, DType::kBF16) << name;  // the vision tower and multi-token prediction too
    const at::Tensor values = tensor_of(all, name);
    if (name.ends_with("A_log"))
      mixed.emplace_back(name, values.to(at::kFloat));
    else if (name.ends_with("q_proj.weight"))
      mixed.emplace_back(name, values.to(at::kHalf));
    else
      mixed.emplace_back(name, values);
  }
  write_tensors(folder / "bf16" / "model.safetensors", mixed);
  const CheckpointIndex after = convert(folder / "bf16", folder / "again", DType::kBF16);
  for (const auto& [name, tensor] : after.tensors)
    EXPECT_EQ(tensor.entry.dtype, name.ends_with("A_log") ? DType::kF32 : DType::kBF16) << name;
}

TEST(RewriteCheckpoint, ChangesRowsAndCopiesTheRestByteForByte) {
  TempFolder folder;
  const fs::path model = folder / "model";
  fs::copy(golden_folder("qwen3_moe-bf16") / "model", model);
  folder.write("model/tokenizer.json", "{}");
  folder.write("model/additional_chat_templates/tool_use.jinja", "{{ x }}");
  folder.write("model/.cache", "hidden");
  folder.write("model/pytorch_model.bin", "other weights");
  folder.write("model/moraine-hashes.json", "{}");
  RewriteOptions options{.dtype = {}, .num_threads = 2};
  const std::string changed = "model.layers.1.mlp.experts.5.up_proj.weight";
  options.changes[changed] = [](int64_t first_row, const at::Tensor& rows_RI) {
    rows_RI.add_(at::arange(first_row, first_row + rows_RI.size(0), at::kFloat).unsqueeze(1));
  };
  const OpenedCheckpoint before = open_checkpoint(model, DtypeChoice::kBFloat16);
  rewrite_checkpoint(before, folder / "out", options);
  const CheckpointIndex after = read_checkpoint_index(folder / "out");
  EXPECT_EQ(after.tensors.size(), before.headers.index.tensors.size());
  for (const auto& [name, tensor] : after.tensors) {
    at::Tensor expected = tensor_of(before.headers.index, name);
    if (name == changed)
      expected = (expected.to(at::kFloat) + at::arange(expected.size(0)).unsqueeze(1)).to(at::kBFloat16);
    EXPECT_TRUE(at::equal(tensor_of(after, name), expected)) << name;
  }
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder / "out")) names.push_back(entry.path().filename());
  EXPECT_THAT(names, testing::UnorderedElementsAre("config.json", "generation_config.json", "model.safetensors",
                                                   "tokenizer.json", "additional_chat_templates"));
  EXPECT_EQ(read_text_file(folder / "out" / "config.json"), read_text_file(model / "config.json"));

  options.changes[changed] = [](int64_t, const at::Tensor& rows_RI) { rows_RI.fill_(INFINITY); };
  EXPECT_THROW(rewrite_checkpoint(before, folder / "broken", options), Error);
  EXPECT_FALSE(fs::exists(folder / "broken"));
}

// A block's scale is the one that is nearer to its values.
TEST(Quantize, TakesTheScaleWithTheSmallerError) {
  const QuantFormat fp4 = QuantFormat::fp4(DType::kF8E8M0);
  at::Tensor rows_RI = at::tensor({0.f, .5f, 1.f, 1.5f, 2.f, 3.f, 4.f, 6.f}).repeat({1, 4}).contiguous();
  const at::Tensor one = at::ones({1, 1});
  const auto scale_of = [&](const QuantFormat& format, DType dtype) {
    return quantize(format, dtype, rows_RI, one).scales.item<float>();
  };
  EXPECT_EQ(scale_of(fp4, DType::kF8E8M0), 1);
  rows_RI[0][7] = 6.5f;  // doubled steps for all would be worse than this one cut off
  EXPECT_EQ(scale_of(fp4, DType::kF8E8M0), 1);
  EXPECT_EQ(quantize(fp4, DType::kF8E8M0, rows_RI, one).codes[0][3].item<int>(), 0x76);
  rows_RI[0][7] = 12;
  EXPECT_EQ(scale_of(fp4, DType::kF8E8M0), 2);
  rows_RI.div_(8);
  EXPECT_EQ(scale_of(fp4, DType::kF8E8M0), 0.25);
  const QuantFormat fp8{DType::kF8E4M3, DType::kF32, 1, 32};
  rows_RI[0][7] = 448 * 1.1f;
  EXPECT_NEAR(scale_of(fp8, DType::kF32), 1.1, 1e-6);
  EXPECT_GE(scale_of(fp8, DType::kBF16) * 448, rows_RI[0][7].item<float>());
  rows_RI.zero_();
  EXPECT_EQ(scale_of(fp8, DType::kF32), 1);
  uint8_t stored[2];
  store_scales(at::tensor({0.25f, 2.f}), DType::kF8E8M0, stored);
  EXPECT_EQ(stored[0], 125);
  EXPECT_EQ(stored[1], 128);
}

TEST(RewriteCheckpoint, KeepsTheFormatOfQuantisedTensors) {
  for (const char* name : {"deepseek_v4-fp8fp4", "qwen3_moe-fp8"}) {
    TempFolder folder;
    const OpenedCheckpoint opened = open_checkpoint(golden_folder(name) / "model", DtypeChoice::kBFloat16);
    const CheckpointIndex& before = opened.headers.index;
    const bool is_v4 = opened.headers.config.json().contains("expert_dtype");
    const std::string suffix = is_v4 ? ".scale" : ".weight_scale_inv";
    const std::vector<std::string> changed =
        is_v4 ? std::vector<std::string>{"layers.1.ffn.experts.2.w1", "layers.1.attn.wq_b"}
              : std::vector<std::string>{"model.layers.2.mlp.experts.2.up_proj", "model.layers.0.self_attn.q_proj"};
    RewriteOptions options{.dtype = {}, .keep_format = true, .num_threads = 2};
    // Nothing changes: every byte is as it was, though half of them went through fp32.
    for (const std::string& module : changed) options.changes[module + ".weight"] = [](int64_t, const at::Tensor&) {};
    RewrittenCheckpoint written = rewrite_checkpoint(opened, folder / "same", options);
    EXPECT_EQ(written.dequantized, 0u);
    ASSERT_EQ(written.requantized.size(), changed.size());
    EXPECT_EQ(written.requantized.front().largest, 0);
    const CheckpointIndex same = read_checkpoint_index(folder / "same");
    ASSERT_EQ(same.tensors.size(), before.tensors.size());
    const auto bytes_of = [](const CheckpointIndex& index, const std::string& tensor) {
      return tensor_of(index, tensor).view(at::kByte);
    };
    for (const auto& [tensor, stored] : before.tensors)
      EXPECT_TRUE(at::equal(bytes_of(same, tensor), bytes_of(before, tensor))) << tensor;
    EXPECT_EQ(read_text_file(folder / "same" / "config.json"), read_text_file(before.folder / "config.json"));

    // Rows that grow: their blocks get new scales, the others keep codes and scales.
    for (const std::string& module : changed)
      options.changes[module + ".weight"] = [](int64_t first_row, const at::Tensor& rows_RI) {
        if (first_row == 0) rows_RI[0].mul_(3);
      };
    written = rewrite_checkpoint(opened, folder / "out", options);
    const CheckpointIndex after = read_checkpoint_index(folder / "out");
    for (const std::string& module : changed) {
      at::Tensor wanted = plain_tensor_of(before, module + ".weight").to(at::kFloat).clone();
      wanted[0].mul_(3);
      const at::Tensor stored = plain_tensor_of(after, module + ".weight").to(at::kFloat);
      const double rms = ((stored - wanted).square().sum() / wanted.square().sum()).sqrt().item<double>();
      EXPECT_GT(rms, 0) << module;
      EXPECT_LT(rms, 0.12) << module;
      const auto error = std::find_if(written.requantized.begin(), written.requantized.end(),
                                      [&](const QuantizationError& e) { return e.tensor == module + ".weight"; });
      ASSERT_NE(error, written.requantized.end());
      EXPECT_NEAR(error->rms, rms, 0.02 * rms) << module;  // plain_tensor_of rounds
      EXPECT_FALSE(at::equal(bytes_of(after, module + suffix), bytes_of(before, module + suffix)));
    }
    for (const auto& [tensor, stored] : before.tensors)
      if (std::none_of(changed.begin(), changed.end(),
                       [&](const std::string& module) { return tensor.starts_with(module + "."); }))
        EXPECT_TRUE(at::equal(bytes_of(after, tensor), bytes_of(before, tensor))) << tensor;
    open_checkpoint(folder / "out", DtypeChoice::kBFloat16);
  }
}

// Quantised tensors of layers that no image holds have been compared with nothing when they come here.
TEST(RewriteCheckpoint, RefusesScalesThatDoNotFit) {
  const CheckpointIndex golden = read_checkpoint_index(golden_folder("deepseek_v4-fp8fp4") / "model");
  const std::string weight = "mtp.0.attn.wq_a.weight", scale = "mtp.0.attn.wq_a.scale";
  const auto expect_error = [&](const std::function<std::optional<at::Tensor>(const std::string&, at::Tensor)>& edit,
                                const char* part) {
    TempFolder folder;
    fs::create_directories(folder / "model");
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    for (const auto& [name, tensor] : golden.tensors)
      if (auto kept = edit(name, tensor_of(golden, name))) tensors.emplace_back(name, *kept);
    write_tensors(folder / "model" / "model.safetensors", tensors);
    fs::copy(golden.folder / "config.json", folder / "model" / "config.json");
    try {
      convert(folder / "model", folder / "out", DType::kBF16);
      ADD_FAILURE() << "nothing is wrong with " << part;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr(weight), testing::HasSubstr(part)));
      EXPECT_EQ(error.kind, ErrorKind::kInput);
    }
    EXPECT_FALSE(fs::exists(folder / "out"));
  };
  const auto with_scale = [&](std::optional<at::Tensor> scales) {
    return [&, scales](const std::string& name, at::Tensor t) { return name == scale ? scales : std::optional(t); };
  };
  expect_error(with_scale({}), "there is no tensor mtp.0.attn.wq_a.scale");
  expect_error(with_scale(at::ones({3, 5})), "[3, 5] scales are not one for each 128 × 128 block");
  expect_error(with_scale(at::ones({4})), "[4] scales are not one for each");
  expect_error(with_scale(at::ones({1, 2}, at::kLong)), "I64");
}

}  // namespace
}  // namespace moraine
