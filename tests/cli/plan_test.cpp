#include <gmock/gmock.h>

#include <numeric>

#include "base/file.h"
#include "base/json.h"
#include "base/temp_folder.h"
#include "cli/run_moraine.h"

namespace moraine {
namespace {

// A recipe that names nothing but a real model's config.json: no weights, no data, no save.dir.
struct PlanOf {
  TempFolder temp;
  std::string recipe = (temp.path() / "recipe.json").string();
  explicit PlanOf(const std::string& model) {
    const auto config = std::filesystem::path(MORAINE_TESTS_DIR) / "golden" / "configs" / model;
    write_file_atomic(recipe, Json{{"model", {{"path", config.string()}}}}.dump());
  }
  Json json(std::vector<std::string> flags) const {
    std::vector<std::string> args{"plan", recipe, "--json"};
    args.insert(args.end(), flags.begin(), flags.end());
    const Ended ended = run_moraine(args);
    EXPECT_EQ(ended.exit_code, 0) << ended.err;
    return Json::parse(ended.out);
  }
};

uint64_t sum(const Json& plan, const char* key) {
  uint64_t total = 0;
  for (const Json& rank : plan["ranks"]) total += rank[key].get<uint64_t>();
  return total;
}

TEST(Plan, ForCudaOnAnyMachine) {
  const PlanOf plan("Qwen3-30B-A3B");
  const Json cpu = plan.json({"dist.device=cpu"}), cuda = plan.json({"dist.device=cuda"});
  EXPECT_EQ(cuda["device"], "cuda");
  EXPECT_GT(cuda["ranks"][0]["libtorch_base_bytes"], 500 << 20);  // CUDA's context
  EXPECT_EQ(cuda["ranks"][0]["communicator_bytes"], 0);           // a single rank has none
  EXPECT_EQ(cuda["prediction"], nullptr);
  EXPECT_EQ(cuda["ranks"][0]["resident_base_bytes"], cpu["ranks"][0]["resident_base_bytes"]);
  // Values and gradients of the adapter, which the CPU sums in fp64.
  EXPECT_EQ(cuda["ranks"][0]["adapter_bytes"].get<int64_t>() * 3, cpu["ranks"][0]["adapter_bytes"].get<int64_t>() * 2);
}

TEST(Plan, PredictsAStepOnADevice) {
  const PlanOf plan("Qwen3-30B-A3B");
  const Json told = plan.json({"--world", "8", "--device", "h100"})["prediction"];
  EXPECT_GT(told["seconds"], 0);
  EXPECT_EQ(told["compared_with_a_device"], false);
  EXPECT_LE(told["meshes"][0]["seconds"], told["seconds"]);
  double sum = 0;
  for (const auto& [name, seconds] : told["seconds_of"].items()) sum += seconds.get<double>();
  EXPECT_NEAR(sum, told["seconds"].get<double>(), 1e-9);
  const Json ep1 = plan.json({"--world", "8"}),
             decided = plan.json({"--world", "8", "--device", "h100", "mesh.ep=auto"});
  EXPECT_THAT(ep1["traffic_advice"].get<std::string>(), testing::HasSubstr("with mesh.ep="));
  EXPECT_EQ(decided["mesh"], told["meshes"][0]["mesh"]);
  EXPECT_THAT(decided["decided"].get<std::string>(), testing::HasSubstr("predicted to be the fastest"));
  expect_input_error({"plan", plan.recipe, "--device", "a100"}, {"--device", "a100", "h100"});
}

TEST(Plan, LongSequencesHoldInProportion) {
  const PlanOf plan("Qwen3-30B-A3B");
  const auto activations = [&](const std::vector<std::string>& keys) {
    return plan.json(keys)["ranks"][0]["activation_bytes"].get<double>();
  };
  const double run = activations({"data.max_length=65536", "dist.device=cuda"});
  EXPECT_NEAR(activations({"data.max_length=1048576", "dist.device=cuda"}) / run, 16, 0.5);
  EXPECT_NEAR(activations({"data.max_length=65536", "train.micro_batch_size=1024", "train.batch_size=1024",
                           "dist.device=cuda"}) /
                  run,
              1024, 1);
}

TEST(Plan, MicroBatchesByTokens) {
  const PlanOf plan("Qwen3-30B-A3B");
  const auto batch = [&](std::vector<std::string> keys) {
    keys.insert(keys.end(), {"train.batch_size=64", "dist.device=cuda"});
    const Json found = plan.json(keys);
    EXPECT_EQ(found["batch"]["micro_steps"].get<int64_t>() * found["batch"]["micro_batch_size"].get<int64_t>(), 64);
    return std::pair{found["batch"]["micro_batch_tokens"], found["ranks"][0]["activation_bytes"]};
  };
  const auto rows = batch({"train.micro_batch_size=4"}), tokens = batch({"train.micro_batch_tokens=8192"});
  EXPECT_EQ(rows, (std::pair{Json(), tokens.second}));
  EXPECT_EQ(tokens.first, 8192);
  EXPECT_EQ(batch({"train.micro_batch_tokens=auto"}).first, 2048) << "data.max_length";
  EXPECT_EQ(batch({"train.micro_batch_tokens=auto", "--memory-per-rank", "1TiB"}).first, 16384);
  EXPECT_EQ(batch({"train.micro_batch_tokens=auto", "--memory-per-rank", "10GiB"}).first, 2048) << "not even that";
}

TEST(Plan, TheWorldReadsTheCheckpointOnceAReplica) {
  for (const char* model : {"Qwen3-30B-A3B", "Qwen3.5-35B-A3B", "DeepSeek-V4-Flash"}) {
    const PlanOf plan(model);
    const uint64_t bytes = plan.json({})["model"]["bytes"];
    EXPECT_EQ(sum(plan.json({}), "bytes_read"), bytes);
    EXPECT_EQ(sum(plan.json({"--world", "6", "mesh.ep=3"}), "bytes_read"), bytes) << model;
    // Dense weights once a group of the fsdp ranks, here all of a replica; experts once an ep group.
    EXPECT_EQ(sum(plan.json({"--world", "16", "mesh.ep=4", "mesh.replicate=2"}), "bytes_read"), 2 * bytes) << model;
    EXPECT_EQ(plan.json({"--world", "1024", "mesh.ep=8", "--ranks-per-node", "8"})["ranks"].size(), 1024u);
  }
}

TEST(Plan, ShardsShrinkWithRanksAndOnlyShardedImagesAreGathered) {
  const PlanOf plan("Qwen3-30B-A3B");
  const Json one = plan.json({})["ranks"][0], eight = plan.json({"--world", "8", "mesh.ep=8"})["ranks"][0];
  EXPECT_EQ(one["gather_buffer_bytes"], 0);
  EXPECT_GT(eight["gather_buffer_bytes"], 0);
  EXPECT_NEAR(eight["resident_base_bytes"].get<double>() / one["resident_base_bytes"].get<double>(), 1.0 / 8, 0.001);
  const Json kept = plan.json({"--world", "8", "mesh.ep=8", "mesh.resident=1TiB"})["ranks"][0];
  EXPECT_EQ(kept["gather_buffer_bytes"], 0);
  EXPECT_GT(kept["resident_base_bytes"], eight["resident_base_bytes"]);
  for (const Json& rank : {one, eight, kept}) {
    EXPECT_GE(rank["peak_bytes"].get<uint64_t>(),
              rank["resident_base_bytes"].get<uint64_t>() + rank["gather_buffer_bytes"].get<uint64_t>() +
                  rank["adapter_bytes"].get<uint64_t>() + rank["optimizer_bytes"].get<uint64_t>());
  }
}

TEST(Plan, SaysWhetherItFitsAndWhatWouldMakeItFit) {
  const PlanOf plan("Qwen3-30B-A3B");
  EXPECT_EQ(plan.json({"--world", "8", "mesh.ep=8", "--memory-per-rank", "80GiB"})["fits"], true);
  const Json tight = plan.json({"--world", "1", "--memory-per-rank", "40GiB"});
  EXPECT_EQ(tight["fits"], false);
  EXPECT_THAT(tight["advice"].get<std::string>(), testing::HasSubstr("ranks"));
  EXPECT_EQ(plan.json({})["fits"], nullptr);
}

TEST(Plan, LoadingTravelsAsItsModeSays) {
  const Json plan = PlanOf("Qwen3-30B-A3B").json({"--world", "16", "mesh.ep=8", "--ranks-per-node", "8"});
  EXPECT_EQ(plan["load_network_bytes"]["direct"], 0);
  const uint64_t bytes = plan["model"]["bytes"], of_rank0 = plan["ranks"][0]["bytes_read"];
  EXPECT_EQ(plan["load_network_bytes"]["rank0"], bytes - of_rank0);
  EXPECT_EQ(plan["load_network_bytes_between_nodes"]["node"], 0);
}

TEST(Plan, WrongInputIsOneLine) {
  const PlanOf plan("Qwen3-30B-A3B");
  expect_input_error({"plan", plan.recipe, "--world", "3", "mesh.ep=2"}, {"mesh.ep", "does not divide"});
  expect_input_error({"plan", plan.recipe, "--world", "0"}, {"--world", "1 or more"});
  expect_input_error({"plan", plan.recipe, "--world", "8", "--ranks-per-node", "3"},
                     {"--ranks-per-node", "does not divide"});
  expect_input_error({"plan", plan.recipe, "--memory-per-rank", "80 bananas"}, {"--memory-per-rank", "80 bananas"});
  expect_input_error({"plan", plan.recipe, "mesh.ep=256"}, {"mesh.ep", "128 experts"});
  expect_input_error({"plan", plan.recipe, "model.path=/nowhere"}, {"/nowhere"});
  expect_input_error({"plan", plan.recipe, "adapter.target_modules=[nothing]"}, {"nothing"});
}

}  // namespace
}  // namespace moraine
