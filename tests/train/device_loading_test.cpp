// Weights that go to a device a part of the images at a time, or stay in the host's memory: the same bytes, the same
// steps.
#include "families.h"
#include "opened_golden.h"
#include "train/step.h"

namespace moraine {
namespace {

TEST(DeviceLoading, ImagesInPartsHaveTheBytesOfThoseAtOnce) {
  for (const char* name : {"deepseek_v4-fp8fp4", "qwen3_moe-bf16"}) {
    MeshGroups groups = single_rank_groups();
    const OpenedCheckpoint checkpoint = open_checkpoint(golden_folder(name) / "model", DtypeChoice::kAuto);
    const Placement placement(checkpoint.specs, checkpoint.shape().num_experts, groups.mesh);
    const auto load = [&](c10::Device device, uint64_t staging_bytes) {
      return load_shards(placement, checkpoint.headers.index, groups,
                         {.device = device, .staging_bytes = staging_bytes});
    };
    const LoadedShards whole = load(c10::kCPU, 0), parts = load(testing_support::test_device(), 50000);
    ASSERT_EQ(parts.bytes.size(), whole.bytes.size());
    for (size_t i = 0; i < whole.bytes.size(); ++i) {
      EXPECT_EQ(parts.bytes[i].device(), testing_support::test_device());
      const at::Tensor found = parts.bytes[i].cpu();
      for (const Slot& slot : placement.image(i, 0).slots) {
        const auto bytes = [&](const at::Tensor& image) {
          return image.narrow(0, static_cast<int64_t>(slot.offset), static_cast<int64_t>(slot.nbytes));
        };
        EXPECT_TRUE(at::equal(bytes(found), bytes(whole.bytes[i]))) << name << ", image " << i << ", " << slot.name;
      }
    }
    EXPECT_TRUE(parts.report.verified);
    EXPECT_EQ(parts.report.bytes_read, whole.report.bytes_read);
    EXPECT_EQ(parts.report.shard_bytes, whole.report.shard_bytes);
  }
}

struct Steps {
  std::vector<double> losses;
  at::Tensor grads;
};
// Two steps of training, of two micro-batches each.
Steps train(const std::string& name, Offload offload, uint64_t resident_bytes) {
  Golden golden(name, DtypeChoice::kAuto, {.resident_bytes = resident_bytes, .offload = offload});
  EXPECT_EQ(golden.loaded.weights->all_resident(), offload == Offload::kNone);
  OpenedAdapter adapter = golden.adapter();
  TrainConfig config;
  AdamW optimizer(adapter.state, config);
  std::vector<TrainingRow> rows;
  for (const Sample& sample : golden.batch.samples) rows.push_back({&sample});
  Steps steps;
  for (int step = 0; step < 2; ++step)
    steps.losses.push_back(train_step(golden.loaded, adapter.state, optimizer, rows, config, 1e-3, golden.groups).loss);
  steps.grads = at::cat({adapter.state.dense().grads, adapter.state.experts().grads}).cpu();
  return steps;
}

TEST(DeviceOffload, WeightsInTheHostsMemoryGiveTheSameBits) {
  for (const std::string& name : {"deepseek_v4-fp8fp4", "qwen3_5_moe-bf16", "mixtral-fp32"}) {
    const Steps wanted = train(name, Offload::kNone, 0);
    for (const Offload offload : {Offload::kExperts, Offload::kAll}) {
      for (const uint64_t resident_bytes : {0, 300000}) {
        const Steps found = train(name, offload, resident_bytes);
        EXPECT_EQ(found.losses, wanted.losses) << name << " " << word_of(offload) << " " << resident_bytes;
        EXPECT_TRUE(at::equal(found.grads, wanted.grads)) << name << " " << word_of(offload) << " " << resident_bytes;
      }
    }
  }
}

}  // namespace
}  // namespace moraine
