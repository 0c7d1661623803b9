// Step times from figures of a device, and which way to spread a run is taken.
#include "plan/mesh_choice.h"

#include <gmock/gmock.h>

#include "base/error.h"
#include "planned_model.h"

namespace moraine {
namespace {

using testing::HasSubstr;

PlannedRun on(PlannedRun run, const std::string& device) {
  run.rates = parse_device("--device", device);
  return run;
}

TEST(StepTime, AKernelTakesWhatItsArithmeticOrItsMemoryTakes) {
  DeviceRates rates;
  rates.half_flops = 1000, rates.product_part = 0.5;
  rates.memory_rate = 100, rates.launch = 1;
  DeviceWork work;
  work.add({Product::kHalf, 5000, 300}, 2);  // 10 s of arithmetic, 3 s of memory
  work.add({Product::kNone, 0, 400});        // 4 s of memory
  const StepTime time = time_of(work, rates);
  EXPECT_DOUBLE_EQ(time.products, 20);
  EXPECT_DOUBLE_EQ(time.memory, 4);
  EXPECT_DOUBLE_EQ(time.seconds(), 24);
  work.add({Product::kNone, 0, 1}, 100);  // launched in 103 s, done in 25 s
  EXPECT_DOUBLE_EQ(time_of(work, rates).launches, 103);
  EXPECT_DOUBLE_EQ(time_of(work, rates).seconds(), 103);
}

TEST(StepTime, SlowerLinksAndLessMemoryBandwidthTakeLonger) {
  const PlannedQwen3 planned;
  const PlannedRun run = planned.run(8, {"dist.device=cuda", "mesh.ep=8"});
  const double h200 = predict_step(planned.model, on(run, "h200")).seconds();
  EXPECT_GT(predict_step(planned.model, on(run, "h100")).seconds(), h200);
  EXPECT_GT(predict_step(planned.model, on(run, "h200,nvlink=1GB/s")).network, 1);
  EXPECT_LT(predict_step(planned.model, on(run, "b200")).seconds(), h200);
}

TEST(DeviceRates, FiguresMayBeOnesOwn) {
  const DeviceRates rates = parse_device("--device", "h200,pcie=25GB/s,host=128GiB,launch=8us,bf16=1.5PFLOP/s");
  EXPECT_EQ(rates.pcie, 25e9);
  EXPECT_EQ(rates.host_memory, uint64_t{128} << 30);
  EXPECT_DOUBLE_EQ(rates.launch, 8e-6);
  EXPECT_DOUBLE_EQ(rates.half_flops, 1.5e15);
  EXPECT_EQ(rates.memory_rate, parse_device("--device", "h200").memory_rate);
  for (const auto& [text, said] : {std::pair{"a100", "'a100' is not known"},
                                   {"h100,pcie=fast", "'fast' is no value of pcie"},
                                   {"h100,speed=3GB/s", "'speed=3GB/s' is no figure"},
                                   {"h100,pcie=3GiB", "no value of pcie"}}) {
    try {
      parse_device("--device", text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(said));
    }
  }
}

TEST(MeshChoice, TheFastestOfThoseThatFit) {
  const PlannedQwen3 planned;
  const PlannedRun run = planned.run(8, {"dist.device=cuda", "train.batch_size=8"});
  const auto best = [&](const std::string& device) {
    return run_options(planned.model, on(run, device), Freedom{.mesh = true});
  };
  // Slow links: weights that 8 ranks gather in every layer are far more than tokens.
  const std::vector<RunOption> slow = best("h100,nvlink=2GB/s,memory=60GiB");
  EXPECT_TRUE(slow.front().fits);
  EXPECT_GT(slow.front().run.mesh.ep, 1);
  for (size_t i = 1; i < slow.size() && slow[i].fits; ++i)
    EXPECT_LE(slow[i - 1].time.seconds(), slow[i].time.seconds());
  // Whole copies on every rank need no links, but 60 GiB.
  const std::vector<RunOption> tight = best("h100,nvlink=2GB/s,memory=40GiB");
  EXPECT_TRUE(tight.front().fits);
  EXPECT_LE(tight.front().peak, uint64_t{38} << 30);
  EXPECT_FALSE(tight.back().fits);
  EXPECT_EQ(best("h100").front().run.mesh, best("h100").front().run.mesh);
}

TEST(MeshChoice, OffloadsOnlyWhatDoesNotFit) {
  const PlannedQwen3 planned;
  const PlannedRun run = planned.run(1, {"dist.device=cuda"});
  const Freedom freedom{.offload = true, .recompute = true};
  const auto best = [&](const std::string& device) {
    return run_options(planned.model, on(run, device), freedom).front();
  };
  const RunOption roomy = best("h200");
  EXPECT_EQ(roomy.run.offload, Offload::kNone);
  EXPECT_FALSE(roomy.run.recompute);
  const RunOption tight = best("h100,memory=40GiB");
  EXPECT_EQ(tight.run.offload, Offload::kExperts);
  EXPECT_TRUE(tight.fits);
  EXPECT_GT(tight.run.resident_bytes, 0u);
  EXPECT_FALSE(best("h100,memory=40GiB,host=10GiB").fits);
}

TEST(MeshChoice, ARecipeLeavesOnlyWhatSaysAuto) {
  const PlannedQwen3 planned;
  const Recipe recipe = planned.recipe({"mesh.ep=auto", "mesh.replicate=2", "train.recompute=auto"});
  const Freedom freedom = freedom_of(recipe);
  EXPECT_TRUE(freedom.mesh && freedom.recompute && !freedom.offload);
  EXPECT_EQ(freedom.replicate, 2);
  PlannedRun run = planned.run(8, {"mesh.ep=4", "mesh.replicate=2", "train.recompute=none"});
  const Recipe taken = decided(recipe, run);
  EXPECT_EQ(taken.mesh.ep, 4);
  EXPECT_EQ(taken.mesh.fsdp, 4);
  EXPECT_EQ(taken.train.recompute, Recompute::kNone);
  EXPECT_FALSE(leaves_choices(taken));
}

}  // namespace
}  // namespace moraine
