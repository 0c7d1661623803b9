// What the shell and the system hand in: paths with ~, closed streams, pipes without readers, links that lead nowhere.
#include <gmock/gmock.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "base/file.h"
#include "cli/checkpoints.h"
#include "cli/run_moraine.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class FromTheShell : public testing::Test {
 protected:
  // The exit code of a command line of bash, with $M for the program and its stderr in err_.
  int run(const std::string& line) {
    setenv("M", MORAINE_PROGRAM, 1);
    const std::string command = "cd '" + folder_.path().string() + "' && bash -c 'set -o pipefail; { " + line + "; } 2> err'";
    const int status = std::system(command.c_str());
    err_ = read_text_file(folder_ / "err");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  // A recipe of three steps into `dir`.
  std::string recipe(const std::string& dir) {
    const fs::path golden = golden_folder("qwen3_moe-fp32");
    return folder_.write(dir + ".yaml", "model: {path: " + (golden / "model").string() + "}\ndata: {train: [" +
                                            (golden / "batch.safetensors").string() + "]}\ntrain: {steps: 3}\nsave: {dir: " + dir + "}\n");
  }
  int64_t lines_of_metrics(const std::string& dir) {
    const std::string text = read_text_file(folder_ / (dir + "/metrics.jsonl"));
    for (size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) EXPECT_EQ(text[at], '{') << text;
    return std::count(text.begin(), text.end(), '\n');
  }

  TempFolder folder_;
  std::string err_;
};

TEST_F(FromTheShell, ARunTrainsOnWithoutReaderOfItsLog) {
  EXPECT_EQ(run("$M train " + recipe("piped") + " | :"), 0) << err_;
  EXPECT_EQ(run("$M train " + recipe("closed") + " >&-"), 0) << err_;
  for (const char* dir : {"piped", "closed"}) {
    EXPECT_TRUE(fs::exists(folder_ / dir / "adapter/adapter_model.safetensors"));
    EXPECT_EQ(lines_of_metrics(dir), 3);
  }
}

TEST_F(FromTheShell, ResultsWithoutReaderEndQuietly) {
  const std::string model = (golden_folder("qwen3_moe-fp32") / "model").string();
  EXPECT_EQ(run("$M inspect " + model + " | :"), 128 + SIGPIPE);
  EXPECT_EQ(err_, "");
  EXPECT_EQ(run("$M inspect " + model + " > /dev/full"), 1);
  EXPECT_EQ(err_, "moraine: error: standard output: cannot write: No space left on device\n");
}

TEST_F(FromTheShell, TildeInAFlagIsTheHomeFolder) {
  folder_.write("home/config.json", tiny_config().dump());
  EXPECT_EQ(run("HOME=$PWD/home $M init --config=~/config.json --out=~/model"), 0) << err_;
  EXPECT_TRUE(fs::exists(folder_ / "home/model/model.safetensors"));
  EXPECT_FALSE(fs::exists(folder_ / "~"));
}

TEST_F(FromTheShell, PathsThatLeadNowhereAreInputErrors) {
  const fs::path golden = golden_folder("qwen3_moe-fp32"), adapter = folder_ / "adapter", circle = folder_ / "m/config.json";
  fs::create_directory(folder_ / "m");
  fs::create_symlink("config.json", circle);
  expect_input_error({"inspect", folder_ / "m"}, {circle, "Too many levels of symbolic links"});
  fs::copy(golden / "lora" / "adapter", adapter);
  fs::rename(adapter / "adapter_model.safetensors", adapter / "adapter_model.bin");
  expect_input_error({"score", "--model", golden / "model", "--adapter", adapter, "--tokens", golden / "batch.safetensors"},
                     {adapter, "pickled weights are not read", "convert"});
}

}  // namespace
}  // namespace moraine
