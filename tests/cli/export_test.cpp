// moraine export, the whole command: what it writes works wherever an adapter does.
#include <gmock/gmock.h>

#include "base/file.h"
#include "base/json.h"
#include "base/temp_folder.h"
#include "cli/checkpoints.h"
#include "cli/run_moraine.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Export : public testing::Test {
 protected:
  Ended export_as(const std::string& layout, const fs::path& adapter, const fs::path& out) {
    return run_moraine(
        {"export", "--model", golden_ / "model", "--adapter", adapter, "--layout", layout, "--out", out});
  }
  std::string merged(const fs::path& adapter, const std::string& name) {
    const Ended ended = run_moraine({"merge", "--model", golden_ / "model", "--adapter", adapter, "--out",
                                     folder_ / name, "--max-shard-size", "1GB"});
    EXPECT_EQ(ended.exit_code, 0) << ended.err;
    return read_text_file(folder_ / name / "model.safetensors");
  }

  const fs::path golden_ = golden_folder("mixtral-fp32"), adapter_ = golden_ / "lora" / "adapter";
  TempFolder folder_;
};

TEST_F(Export, IsScoredMergedAndExportedAgain) {
  const fs::path out = folder_ / "per_expert";
  const Ended ended = export_as("per-expert", adapter_, out);
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_EQ(ended.err, "");
  EXPECT_THAT(ended.out, HasSubstr("each expert's projections by themselves"));
  EXPECT_EQ(names_in(out), (std::vector<std::string>{"adapter_config.json", "adapter_model.safetensors"}));
  const Ended scored = run_moraine(
      {"score", "--json", "--model", golden_ / "model", "--adapter", out, "--tokens", golden_ / "batch.safetensors"});
  const double expected = golden_tensor(golden_ / "lora" / "forward.safetensors", "loss").item<float>();
  EXPECT_NEAR(parse_json(scored.out, "stdout")["loss"].get<double>(), expected, 1e-5 * expected) << scored.err;
  EXPECT_TRUE(merged(out, "merged") == merged(adapter_, "merged_before"));
  EXPECT_EQ(export_as("peft", out, folder_ / "peft").exit_code, 0);
  EXPECT_EQ(export_as("peft", adapter_, folder_ / "peft_before").exit_code, 0);
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"})
    EXPECT_TRUE(read_text_file(folder_ / "peft" / file) == read_text_file(folder_ / "peft_before" / file)) << file;
}

TEST_F(Export, SaysHowTheServerIsStarted) {
  const fs::path out = folder_ / "out";
  const Ended ended = export_as("vllm", adapter_, out);
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_THAT(ended.out,
              HasSubstr("For vLLM 0.33.0: --enable-lora --max-lora-rank 8 --lora-modules NAME=" + out.string()));
}

TEST_F(Export, IsInspectedForAProgram) {
  const auto inspected = [&](const fs::path& adapter, const std::string& program) {
    return run_moraine({"inspect", adapter, "--for", program, "--model", golden_ / "model"});
  };
  const Ended silent = inspected(adapter_, "vllm");
  EXPECT_EQ(silent.exit_code, 1);
  EXPECT_THAT(silent.out, HasSubstr("no module has this name, and vLLM says so at DEBUG only"));
  EXPECT_THAT(silent.out, testing::EndsWith("moraine export --layout vllm would be read: --enable-lora --max-lora-rank "
                                            "8 --lora-modules NAME=DIR\n"));
  ASSERT_EQ(export_as("vllm", adapter_, folder_ / "out").exit_code, 0);
  const Ended read = inspected(folder_ / "out", "vllm");
  EXPECT_EQ(read.exit_code, 0) << read.out;
  EXPECT_THAT(read.out, HasSubstr("every key is read: --enable-lora"));
  const Ended json =
      run_moraine({"inspect", "--json", adapter_, "--for", "sglang", "--model", golden_ / "model" / "config.json"});
  EXPECT_EQ(json.exit_code, 1);
  const Json facts = parse_json(json.out, "stdout");
  EXPECT_EQ(facts["for"], "SGLang 0.5.23");
  EXPECT_GT(facts["refused"], 0);
  EXPECT_TRUE(facts["layout"].is_null());
  EXPECT_THAT(facts["layout_error"].get<std::string>(), HasSubstr("w1"));
  expect_input_error({"inspect", adapter_, "--for", "gguf", "--model", golden_ / "model"},
                     {"--for: 'gguf' is not known", "peft, vllm and sglang"});
  expect_input_error({"inspect", adapter_, "--for", "vllm"}, {"--for: needs --model"});
}

TEST_F(Export, RefusesInOneLineAndWritesNothing) {
  const auto refused = [&](const std::string& layout, const fs::path& adapter, const fs::path& out,
                           const std::vector<std::string>& parts) {
    expect_input_error({"export", "--model", golden_ / "model", "--adapter", adapter, "--layout", layout, "--out", out},
                       parts);
  };
  const fs::path out = folder_ / "out", used = folder_ / "used", broken = folder_ / "broken";
  refused("gguf", adapter_, out,
          {"--layout: 'gguf' is no layout", "peft, peft-0.19.0, per-expert, shared-outer, vllm and sglang"});
  fs::create_directory(used);
  folder_.write("used/file", "");
  refused("per-expert", adapter_, used, {used.string(), "is not empty"});
  refused("per-expert", folder_ / "none", out, {"no such folder"});
  fs::copy(adapter_, broken);
  fs::resize_file(broken / "adapter_model.safetensors", fs::file_size(broken / "adapter_model.safetensors") - 8);
  refused("per-expert", broken, out, {(broken / "adapter_model.safetensors").string()});
  EXPECT_EQ(names_in(folder_.path()), (std::vector<std::string>{"broken", "used"}));
}

}  // namespace
}  // namespace moraine
