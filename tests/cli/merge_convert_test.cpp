// moraine merge and moraine convert, whole commands: what they write scores like what it was made of.
#include <gmock/gmock.h>

#include "base/file.h"
#include "base/json.h"
#include "cli/checkpoints.h"
#include "cli/run_moraine.h"
#include "families.h"
#include "formats/checkpoint_index.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string run(const std::vector<std::string>& args) {
  const Ended ended = run_moraine(args);
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_EQ(ended.err, "");
  return ended.out;
}

double score(const fs::path& model, const fs::path& tokens, std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"score", "--json", "--model", model, "--tokens", tokens});
  return parse_json(run(more), "stdout")["loss"].get<double>();
}

std::string merge(const fs::path& golden, const fs::path& out) {
  return run({"merge", "--model", golden / "model", "--adapter", golden / "lora" / "adapter", "--out", out});
}

double golden_loss(const fs::path& file) { return golden_tensor(file, "loss").item<float>(); }

TEST(Merge, ScoresLikeTheModelWithTheAdapter) {
  for (const std::string& name : testing_support::golden_models({"fp32"})) {
    const fs::path golden = golden_folder(name), tokens = golden / "batch.safetensors";
    TempFolder folder;
    const std::string said = merge(golden, folder / "merged");
    EXPECT_THAT(said, HasSubstr("expert parameters merged"));
    EXPECT_THAT(said, testing::Not(HasSubstr("quantised")));
    const double expected = golden_loss(golden / "lora" / "forward.safetensors");
    EXPECT_NEAR(score(folder / "merged", tokens), expected, 1e-5 * expected) << name;
    EXPECT_GT(std::abs(golden_loss(golden / "forward.safetensors") - expected), 1e-3) << name;
  }
}

TEST(Merge, OfAQuantisedModelIsBfloat16) {
  const fs::path golden = golden_folder("deepseek_v4-fp8fp4"), tokens = golden / "batch.safetensors";
  TempFolder folder;
  const std::string said = merge(golden, folder / "merged");
  EXPECT_THAT(said, HasSubstr("tensors, merged or not, are bfloat16 now"));
  // The sums are rounded to bfloat16, and then computed with in fp32 as the golden is.
  EXPECT_NEAR(score(folder / "merged", tokens, {"model.dtype=float32"}),
              golden_loss(golden / "lora" / "forward.safetensors"), 2e-2);
  const Json config = read_json_file(folder / "merged" / "config.json");
  EXPECT_FALSE(config.contains("quantization_config"));
}

TEST(Merge, KeepsTheFormatWhenAsked) {
  const fs::path golden = golden_folder("qwen3_moe-fp8"), tokens = golden / "batch.safetensors";
  TempFolder folder;
  const Json said = parse_json(run({"merge", "--json", "--keep-format", "--score", tokens, "--model", golden / "model",
                                    "--adapter", golden / "lora" / "adapter", "--out", folder / "merged"}),
                               "stdout");
  EXPECT_GT(said["requantized"].size(), 20u);
  EXPECT_EQ(said["dequantized"], 0);
  for (const Json& tensor : said["requantized"]) EXPECT_LT(tensor["rms"].get<double>(), 0.05) << tensor;
  const double adapter = said["loss"]["adapter"].get<double>(), merged = said["loss"]["merged"].get<double>();
  EXPECT_NEAR(merged, adapter, 5e-2);
  EXPECT_EQ(score(folder / "merged", tokens), merged);
  EXPECT_GT(std::abs(score(golden / "model", tokens) - merged), 2 * std::abs(adapter - merged));
  EXPECT_TRUE(read_json_file(folder / "merged" / "config.json").contains("quantization_config"));
}

TEST(Convert, ScoresLikeTheQuantisedModel) {
  const fs::path golden = golden_folder("deepseek_v4-fp8fp4"), tokens = golden / "batch.safetensors";
  TempFolder folder;
  EXPECT_THAT(run({"convert", "--model", golden / "model", "--out", folder / "bf16", "--dtype", "bfloat16",
                   "--max-shard-size", "500kB"}),
              HasSubstr("were quantised"));
  EXPECT_GT(read_checkpoint_index(folder / "bf16").files.size(), 3);
  // Every value is exact in bfloat16, so the same numbers come out.
  EXPECT_EQ(score(folder / "bf16", tokens, {"model.dtype=float32"}),
            score(golden / "model", tokens, {"model.dtype=float32"}));
  EXPECT_EQ(score(folder / "bf16", tokens), score(golden / "model", tokens));
  EXPECT_NEAR(score(folder / "bf16", tokens, {"model.dtype=float32"}), golden_loss(golden / "forward.safetensors"),
              1e-5);
  // The adapter of the quantised model is one of the converted model.
  EXPECT_NEAR(score(folder / "bf16", tokens, {"model.dtype=float32", "--adapter", golden / "lora" / "adapter"}),
              golden_loss(golden / "lora" / "forward.safetensors"), 1e-5);
}

// Plain, gpt-oss's experts are the transposes of what MXFP4 stores.
TEST(Convert, OfMxfp4ScoresLikeIt) {
  const fs::path golden = golden_folder("gpt_oss-mxfp4"), tokens = golden / "batch.safetensors";
  TempFolder folder;
  EXPECT_THAT(run({"convert", "--model", golden / "model", "--out", folder / "bf16", "--dtype", "bfloat16"}),
              HasSubstr("were quantised"));
  EXPECT_FALSE(read_json_file(folder / "bf16" / "config.json").contains("quantization_config"));
  const double loss = golden_loss(golden / "forward.safetensors");
  EXPECT_NEAR(score(folder / "bf16", tokens, {"model.dtype=float32"}), loss, 1e-5);
  EXPECT_NEAR(score(folder / "bf16", tokens, {"model.dtype=float32", "--adapter", golden / "lora" / "adapter"}),
              golden_loss(golden / "lora" / "forward.safetensors"), 1e-5);
  // Dequantised while it is loaded, on ranks that cut experts and blocks anywhere.
  const double stored = score(golden / "model", tokens);
  EXPECT_EQ(score(golden / "model", tokens, {"model.base_format=bfloat16"}), stored);
  EXPECT_EQ(score(golden / "model", tokens, {"model.base_format=bfloat16", "--ranks", "4", "mesh.ep=2"}), stored);
  EXPECT_EQ(score(golden / "model", tokens, {"--ranks", "4", "mesh.ep=2"}), stored);
}

TEST(Merge, IntoMxfp4AddsTheAdapterInEitherFormat) {
  const fs::path golden = golden_folder("gpt_oss-mxfp4"), tokens = golden / "batch.safetensors";
  TempFolder folder;
  merge(golden, folder / "merged");
  const double base = golden_loss(golden / "forward.safetensors"),
               adapted = golden_loss(golden / "lora" / "forward.safetensors");
  // The sums are rounded to bfloat16, and to four bits with --keep-format.
  EXPECT_NEAR(score(folder / "merged", tokens, {"model.dtype=float32"}), adapted, 2e-2);
  const Json said = parse_json(run({"merge", "--json", "--keep-format", "--model", golden / "model", "--adapter",
                                    golden / "lora" / "adapter", "--out", folder / "kept"}),
                               "stdout");
  EXPECT_EQ(said["dequantized"], 0);
  EXPECT_EQ(said["requantized"].size(), 4u);
  for (const Json& tensor : said["requantized"]) EXPECT_LT(tensor["rms"].get<double>(), 0.15) << tensor;
  const double kept = score(folder / "kept", tokens, {"model.dtype=float32"});
  EXPECT_NEAR(kept, adapted, 0.3);
  EXPECT_NE(kept, base);
}

// Dequantised while it is loaded, on every rank in every mode, proven, and the same numbers.
TEST(BaseFormat, ScoresLikeTheStoredFormat) {
  const fs::path golden = golden_folder("deepseek_v4-fp8fp4"), tokens = golden / "batch.safetensors";
  const double stored = score(golden / "model", tokens);
  EXPECT_EQ(score(golden / "model", tokens, {"model.base_format=bfloat16"}), stored);
  EXPECT_EQ(score(golden / "model", tokens, {"model.base_format=bfloat16", "--ranks", "3", "mesh.ep=3"}), stored);
  EXPECT_EQ(score(golden / "model", tokens, {"model.base_format=bfloat16", "--ranks", "2", "load.mode=node"}), stored);
  expect_input_error(
      {"score", "--model", golden / "model", "--tokens", tokens, "model.base_format=bfloat16", "model.dtype=float32"},
      {"model.base_format", "model.dtype"});
  TempFolder folder;
  const fs::path recipe =
      folder.write("recipe.yaml", "model: {path: " + (golden / "model").string() + ", base_format: bfloat16}\n");
  const Json plan = parse_json(
      run({"plan", recipe, "--world", "3", "mesh.ep=3", "data.train=[x]", "save.dir=x", "--json"}), "stdout");
  for (const std::string more :
       {"load.mode=direct", "load.mode=rank0", "load.node_transport=shm", "load.node_transport=p2p"}) {
    const std::string mode = more.starts_with("load.mode") ? more : "load.mode=node";
    const Json report =
        parse_json(run({"verify", recipe, "--ranks", "3", "mesh.ep=3", mode, more, "--json"}), "stdout");
    for (size_t rank = 0; rank < 3; ++rank) {
      EXPECT_TRUE(report["ranks"][rank]["verified"].get<bool>()) << more;
      EXPECT_EQ(report["ranks"][rank]["shard_bytes"], plan["ranks"][rank]["resident_base_bytes"]) << more;
      if (more != "load.mode=direct") continue;
      EXPECT_EQ(report["ranks"][rank]["bytes_read"], plan["ranks"][rank]["bytes_read"]);
    }
  }
}

// Nothing is left on disk by what fails.
class MergeConvertWrongInput : public testing::Test {
 protected:
  void expect_error(std::vector<std::string> args, const std::vector<std::string>& parts) {
    fs::create_directories(results_.path());
    args.insert(args.end(), {"--out", results_ / "out"});
    expect_input_error(args, parts);
    EXPECT_THAT(names_in(results_.path()), testing::IsEmpty());
  }
  TempFolder folder_, results_;
  const fs::path golden_ = golden_folder("qwen3_moe-fp32"), model_ = golden_ / "model",
                 adapter_ = golden_ / "lora" / "adapter";
};

TEST_F(MergeConvertWrongInput, Arguments) {
  expect_error({"convert", "--model", model_, "--dtype", "float8"}, {"--dtype", "'float8'", "bfloat16"});
  expect_error({"convert", "--model", model_}, {"--dtype D is missing"});
  expect_error({"convert", "--model", model_, "--dtype", "bfloat16", "--max-shard-size", "many"},
               {"--max-shard-size", "'many'"});
  expect_error({"convert", "--model", folder_ / "nowhere", "--dtype", "bfloat16"}, {"nowhere"});
  expect_error({"merge", "--model", model_}, {"--adapter DIR[=W] is missing"});
  expect_error({"merge", "--model", model_, "--adapter", folder_ / "nowhere"}, {"nowhere", "no such folder"});
  expect_error({"merge", "--model", folder_ / "nowhere", "--adapter", adapter_}, {"nowhere"});
  expect_input_error({"merge", "--model", model_, "--adapter", adapter_}, {"--out DIR is missing"});
}

TEST_F(MergeConvertWrongInput, UsedFolder) {
  folder_.write("used/notes.txt", "mine");
  for (const fs::path& out : {folder_ / "used", folder_ / "used/notes.txt", model_}) {
    expect_input_error({"merge", "--model", model_, "--adapter", adapter_, "--out", out}, {out.string()});
    expect_input_error({"convert", "--model", model_, "--dtype", "bfloat16", "--out", out}, {out.string()});
  }
  EXPECT_THAT(names_in(folder_ / "used"), testing::ElementsAre("notes.txt"));
}

TEST_F(MergeConvertWrongInput, AdapterOfAnotherModel) {
  const fs::path qwen3_5 = golden_folder("qwen3_5_moe-fp32") / "model",
                 deepseek = golden_folder("deepseek_v4-fp32") / "model";
  expect_error({"merge", "--model", qwen3_5, "--adapter", adapter_},
               {"adapter_model.safetensors", "does not have", "another model"});
  expect_error({"merge", "--model", deepseek, "--adapter", adapter_},
               {"adapter_model.safetensors", "holds an adapter of 'model.layers.0.self_attn.", "not supported"});
  // The same family, another width.
  folder_.write("config.json", tiny_config().dump());
  ASSERT_EQ(run_moraine({"init", "--config", folder_ / "config.json", "--out", folder_ / "tiny"}).exit_code, 0);
  expect_error({"merge", "--model", folder_ / "tiny", "--adapter", adapter_},
               {"adapter_model.safetensors", "does not have", "another model"});
}

TEST_F(MergeConvertWrongInput, BrokenFiles) {
  const fs::path copy = copy_golden_model(folder_);
  const fs::path file = copy / "model-00003-of-00006.safetensors";
  const std::string bytes = read_text_file(file);
  write_file_atomic(file, bytes.substr(0, bytes.size() - 100));
  expect_error({"convert", "--model", copy, "--dtype", "bfloat16"}, {"model-00003-of-00006.safetensors"});
  expect_error({"merge", "--model", copy, "--adapter", adapter_}, {"model-00003-of-00006.safetensors"});
  write_file_atomic(file, bytes);
  Json config = read_json_file(copy / "config.json");
  config["num_hidden_layers"] = 5;
  write_file_atomic(copy / "config.json", config.dump());
  expect_error({"convert", "--model", copy, "--dtype", "bfloat16"}, {"tensor model.layers.4.", "missing"});
  config["architectures"] = {"LlamaForCausalLM"};
  write_file_atomic(copy / "config.json", config.dump());
  expect_error({"convert", "--model", copy, "--dtype", "bfloat16"}, {"LlamaForCausalLM"});
}

TEST_F(MergeConvertWrongInput, AdapterThatIsNotFinite) {
  const fs::path adapter = folder_ / "adapter";
  fs::copy(adapter_, adapter);
  const SafetensorsHeader header = read_safetensors_header(adapter_ / "adapter_model.safetensors");
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const SafetensorsEntry& entry : header.entries) tensors.emplace_back(entry.name, read_tensor(header, entry));
  tensors[3].second.fill_(NAN);
  write_tensors(adapter / "adapter_model.safetensors", tensors);
  const Ended ended = run_moraine({"merge", "--model", model_, "--adapter", adapter, "--out", results_ / "out"});
  EXPECT_EQ(ended.exit_code, 1);
  EXPECT_THAT(ended.err, HasSubstr("not finite"));
  EXPECT_THAT(names_in(results_.path()), testing::IsEmpty());
}

}  // namespace
}  // namespace moraine
