// What the shell and the system hand in: paths with ~, closed streams, pipes without readers, links that lead nowhere.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/checkpoints.h"
#include "cli/run_moraine.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

void give_stdout_no_reader() {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  close(ends[0]);
  dup2(ends[1], STDOUT_FILENO);
  close(ends[1]);
}

TEST(Streams, ARunTrainsOnWithoutReaderOfItsLog) {
  TempFolder folder;
  const fs::path golden = golden_folder("qwen3_moe-fp32");
  const std::string recipe =
      folder.write("r.yaml", "model: {path: " + (golden / "model").string() + "}\ndata: {train: [" +
                                 (golden / "batch.safetensors").string() + "]}\ntrain: {steps: 3}\n");
  const auto train = [&](const char* dir, const std::function<void()>& prepare) {
    SCOPED_TRACE(dir);
    const Ended ended = run_moraine({"train", recipe, "save.dir=" + (folder / dir).string()}, prepare);
    EXPECT_EQ(ended.exit_code, 0) << ended.err;
    EXPECT_TRUE(fs::exists(folder / dir / "adapter/adapter_model.safetensors"));
    const std::string metrics = read_text_file(folder / dir / "metrics.jsonl");
    EXPECT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), 3);
    for (size_t at = 0; at < metrics.size(); at = metrics.find('\n', at) + 1) EXPECT_EQ(metrics[at], '{') << metrics;
  };
  train("piped", give_stdout_no_reader);
  train("closed", [] { close(STDOUT_FILENO); });
}

TEST(Streams, ResultsMustArrive) {
  const fs::path model = golden_folder("qwen3_moe-fp32") / "model";
  const Ended unread = run_moraine({"inspect", model}, give_stdout_no_reader);
  EXPECT_EQ(unread.exit_code, 128 + SIGPIPE);
  EXPECT_EQ(unread.err, "");
  const Ended full = run_moraine({"inspect", model}, [] { dup2(open("/dev/full", O_WRONLY), STDOUT_FILENO); });
  EXPECT_EQ(full.exit_code, 1);
  EXPECT_EQ(full.err, "moraine: error: standard output: cannot write: No space left on device\n");
}

TEST(Paths, TildeInAFlagIsTheHomeFolder) {
  TempFolder folder;
  folder.write("home/config.json", tiny_config().dump());
  const Ended ended = run_moraine({"init", "--config=~/config.json", "--out=~/model"}, [&] {
    if (chdir(folder.path().c_str()) != 0) std::abort();
    setenv("HOME", (folder / "home").c_str(), 1);
  });
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_TRUE(fs::exists(folder / "home/model/model.safetensors"));
  EXPECT_THAT(names_in(folder.path()), testing::ElementsAre("home"));
}

TEST(Paths, ThatLeadNowhereAreInputErrors) {
  TempFolder folder;
  const fs::path golden = golden_folder("qwen3_moe-fp32"), adapter = folder / "adapter",
                 circle = folder / "m/config.json";
  fs::create_directory(folder / "m");
  fs::create_symlink("config.json", circle);
  expect_input_error({"inspect", folder / "m"}, {circle, "Too many levels of symbolic links"});
  fs::copy(golden / "lora" / "adapter", adapter);
  fs::rename(adapter / "adapter_model.safetensors", adapter / "adapter_model.bin");
  expect_input_error(
      {"score", "--model", golden / "model", "--adapter", adapter, "--tokens", golden / "batch.safetensors"},
      {adapter, "pickled weights are not read", "convert"});
}

}  // namespace
}  // namespace moraine
