// Snapshots as files: which one is taken, what is removed, what must agree. That runs go on with the same bits is
// tested on ranks (tests/ranks/resume_test.py).
#include <gmock/gmock.h>

#include "base/file.h"
#include "base/temp_folder.h"
#include "run/resume_check.h"
#include "run/run_folder.h"
#include "train/metrics.h"
#include "train/snapshot_folder.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

class Snapshots : public testing::Test {
 protected:
  void write(int64_t step) {
    write_folder_atomic(folder_.path_of(step), [&](const fs::path& temporary) {
      write_file_atomic(temporary / "optimizer.safetensors", "moments");
      fs::create_directory(temporary / "adapter");
      write_file_atomic(temporary / "adapter" / "adapter_config.json", "{}");
      write_snapshot_state(temporary, step, {{"compared", {{"train.seed", "0"}}}});
    });
  }
  std::string problem(int64_t step) const {
    return error_of([&] { open_snapshot(folder_.path_of(step)); });
  }
  int64_t newest() const {
    const auto found = folder_.newest();
    return found ? found->step : 0;
  }

  TempFolder temp_;
  SnapshotFolder folder_{temp_ / "run" / "checkpoints"};
};

TEST_F(Snapshots, TheNewestByNumber) {
  EXPECT_EQ(newest(), 0);  // no folder yet
  for (int64_t step : {9, 100, 10}) write(step);
  temp_.write("run/checkpoints/step-200.backup/state.json", "{}");
  temp_.write("run/checkpoints/step-0300/state.json", "{}");
  temp_.write("run/checkpoints/.step-400.tmp-1-2/state.json", "{}");
  EXPECT_EQ(folder_.steps(), (std::vector<int64_t>{100, 10, 9}));
  EXPECT_EQ(newest(), 100);
  EXPECT_EQ(folder_.newest()->state["compared"]["train.seed"], "0");
}

TEST_F(Snapshots, EveryByteOfEveryFileCounts) {
  write(1);
  write(2);
  for (const char* name : {"state.json", "optimizer.safetensors", "adapter/adapter_config.json"}) {
    const fs::path path = folder_.path_of(2) / name;
    const std::string bytes = read_text_file(path);
    for (size_t i = 0; i < bytes.size(); ++i) {
      for (int bit : {0, 5}) {
        std::string changed = bytes;
        changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
        temp_.write("run/checkpoints/step-2/" + std::string(name), changed);
        // White space between JSON's values is nothing that can be wrong.
        if (problem(2).empty()) {
          EXPECT_TRUE(std::isspace(bytes[i]) && std::isspace(changed[i])) << name << " " << i;
        }
      }
      temp_.write("run/checkpoints/step-2/" + std::string(name), bytes.substr(0, i));
      const bool only_line_end = i + 1 == bytes.size() && bytes[i] == '\n';
      EXPECT_EQ(problem(2).empty(), only_line_end) << name << " cut to " << i;
    }
    fs::remove(path);
    EXPECT_THAT(problem(2), testing::HasSubstr(std::string(name) + " is missing"));
    EXPECT_EQ(newest(), 1);
    temp_.write("run/checkpoints/step-2/" + std::string(name), bytes);
    EXPECT_EQ(newest(), 2);
  }
}

TEST_F(Snapshots, OneUnderAnothersName) {
  write(3);
  fs::rename(folder_.path_of(3), folder_.path_of(5));
  EXPECT_THAT(error_of([&] { newest(); }), testing::HasSubstr("no whole snapshot: 1 damaged"));
  write(2);
  EXPECT_EQ(newest(), 2);
}

TEST_F(Snapshots, AnotherVersionIsNoDamage) {
  write(1);
  write(2);
  OrderedJson json = OrderedJson::parse(read_text_file(folder_.path_of(2) / "state.json"));
  write_folder_atomic(folder_.path_of(2), [&](const fs::path& temporary) {
    write_snapshot_state(temporary, 2, {{"version", 2}});
  });
  EXPECT_THAT(error_of([&] { newest(); }), testing::HasSubstr("another version of moraine"));
}

TEST_F(Snapshots, OldOnesGoAndDamagedOnesDoNotCount) {
  for (int64_t step : {2, 4, 6, 8}) write(step);
  fs::remove(folder_.path_of(8) / "state.json");
  EXPECT_EQ(newest(), 6);
  write(7);
  folder_.remove_old(7, 2);
  EXPECT_EQ(folder_.steps(), (std::vector<int64_t>{8, 7, 6}));  // 8 is still ahead
  write(9);
  folder_.remove_old(9, 2);
  EXPECT_EQ(folder_.steps(), (std::vector<int64_t>{9, 7}));
  EXPECT_EQ(newest(), 9);
}

RunFacts facts() {
  return {{{"model.path", "aa"},
           {"data.train", "bb"},
           {"train.epochs", "20 steps"},
           {"train.batch_size", "4"},
           {"train.seed", "0"}},
          {{"model.path", "/m"}, {"data.train", "[/d]"}, {"data.max_length", "64"}, {"train.batch_size", "null"}}};
}

std::string change(std::vector<std::pair<std::string, std::string>> RunFacts::*part, const std::string& key,
                   const std::string& value, RunFacts now = facts()) {
  for (auto& [name, old] : now.*part)
    if (name == key) old = value;
  const auto error = first_difference(now, RunFacts::from_json(facts().to_json()), "step-8");
  return error ? error->what() : "";
}

TEST(ResumeCheck, NamesTheKeyAndBothValues) {
  EXPECT_EQ(change(&RunFacts::compared, "", ""), "");
  EXPECT_THAT(change(&RunFacts::compared, "train.seed", "1"),
              testing::StartsWith("train.seed: is 1 here, but 0 in the run of step-8"));
  EXPECT_THAT(change(&RunFacts::compared, "train.batch_size", "2"), testing::HasSubstr("set train.batch_size=4"));
  // Keys as they are written decide nothing; they explain.
  EXPECT_EQ(change(&RunFacts::recipe, "data.max_length", "32"), "");
  RunFacts now = facts();
  now.compared[1].second = "cc";
  EXPECT_THAT(change(&RunFacts::recipe, "data.max_length", "32", now),
              testing::StartsWith("data.max_length: is 32 here, but 64 in"));
  EXPECT_THAT(change(&RunFacts::recipe, "", "", now),
              testing::StartsWith("data.train: is the same, but what it names has changed"));
  // A key that is younger than the snapshot had its default.
  now = facts();
  now.compared.emplace_back("train.weight_decay", "0");
  EXPECT_EQ(change(&RunFacts::recipe, "", "", now), "");
  now.compared.back().second = "0.1";
  EXPECT_THAT(change(&RunFacts::recipe, "", "", now), testing::StartsWith("train.weight_decay: is 0.1 here, but 0 in"));
  // The same length of schedule, written in another way.
  now = facts();
  now.compared[2].first = "train.steps";
  EXPECT_EQ(change(&RunFacts::recipe, "", "", now), "");
}

TEST(ResumeCheck, SaysWhatComesTooLateForAFinishedRun) {
  RunFacts now = facts();
  const auto warning = [&] {
    testing::internal::CaptureStderr();
    warn_of_changes_without_effect(now, facts(), "runs/demo");
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(warning(), "");
  now.recipe[2].second = "128";
  EXPECT_EQ(warning(),
            "moraine: warning: runs/demo: the run is finished, so what is written otherwise now has no effect: "
            "data.max_length\n");
}

TEST(RunFolder, OneRunAtATime) {
  TempFolder temp;
  const RunFolder run(temp / "run");
  {
    const FileLock lock = run.prepare();
    EXPECT_THAT(error_of([&] { const FileLock second = run.prepare(); }),
                testing::HasSubstr("another run is writing there"));
  }
  const FileLock after = run.prepare();
}

TEST(RunFolder, APlaceThatCannotBeIsAnInputError) {
  TempFolder temp;
  temp.write("file", "");
  for (const fs::path& dir : {temp / "file" / "run", temp / std::string(300, 'x')})
    EXPECT_THAT(error_of([&] { const FileLock lock = RunFolder(dir).prepare(); }), testing::StartsWith("save.dir: "));
}

TEST(Metrics, GoOnBehindTheLastStepThatIsKept) {
  TempFolder temp;
  const fs::path path = temp.write("metrics.jsonl", "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"st");
  const auto after = [&](int64_t kept) {
    MetricsFile(path, kept).append({.step = kept + 1});
    return read_text_file(path);
  };
  EXPECT_THAT(after(3), testing::StartsWith("{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4,"));
  EXPECT_THAT(after(2), testing::StartsWith("{\"step\":1}\n{\"step\":2}\n{\"step\":3,"));
  EXPECT_THAT(after(0), testing::StartsWith("{\"step\":1,"));
  EXPECT_THAT(after(5), testing::StartsWith("{\"step\":1,"));  // lines are missing: what is there stays
  // A run that began from another's snapshot has no first lines.
  temp.write("metrics.jsonl", "{\"step\":9}\n{\"step\":10}\n{\"step\":11}\n");
  EXPECT_THAT(after(10), testing::StartsWith("{\"step\":9}\n{\"step\":10}\n{\"step\":11,"));
}

TEST(Metrics, AnEvaluationIsPartOfItsStepsLine) {
  TempFolder temp;
  const fs::path path = temp / "metrics.jsonl";
  MetricsFile file(path, 0);
  file.append({.step = 1});
  file.append({.step = 2});
  file.add_to_last({.loss = 1.5, .trained_tokens = 7});
  file.append({.step = 3});
  file.add_to_last({.loss = std::numeric_limits<double>::quiet_NaN(), .trained_tokens = 7});
  const std::string text = read_text_file(path);
  std::vector<Json> lines;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != text.npos; begin = end + 1)
    lines.push_back(Json::parse(text.substr(begin, end - begin)));
  ASSERT_EQ(lines.size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(lines[i]["step"], i + 1);
  EXPECT_FALSE(lines[0].contains("eval_loss"));
  EXPECT_EQ(lines[1]["eval_loss"], 1.5);
  EXPECT_EQ(lines[1]["eval_tokens"], 7);
  EXPECT_TRUE(lines[2]["eval_loss"].is_null());
}

}  // namespace
}  // namespace moraine
