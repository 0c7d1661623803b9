// Weights that go to a device, a part of the images at a time: the bytes that the CPU has, and proven there.
#include "opened_golden.h"

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

}  // namespace
}  // namespace moraine
