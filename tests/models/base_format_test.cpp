// model.base_format bfloat16: quantised weights dequantised while they are read, wherever shards and reads are cut.
#include <gmock/gmock.h>

#include <cstring>

#include "base/error.h"
#include "base/temp_folder.h"
#include "checkpoint/check_checkpoint.h"
#include "checkpoint/checkpoint_files.h"
#include "checkpoint/shared_reads.h"
#include "dequantised_golden.h"
#include "models/model_layout.h"
#include "parallel/placement.h"
#include "parallel/weight_store.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = golden_folder("deepseek_v4-fp8fp4");
const fs::path kQwen3 = golden_folder("qwen3_moe-fp8"),
               kQwen3_5 = golden_folder("qwen3_5_moe-fp8");  // the latter's blocks are cut off

// What the parts of a slot come to.
at::Tensor expected_elements(const Slot& slot, const CheckpointIndex& index) {
  std::vector<at::Tensor> parts;
  for (const SlotPart& part : slot.parts)
    parts.push_back(
        plain_tensor_of(index, part.tensor).reshape({-1}).narrow(0, part.source_element, part.num_elements));
  return at::cat(parts);
}

// Reads the shards of all ranks of a mesh, in pieces of at most `max_piece` bytes in memory, and compares every slot.
void expect_dequantised(const fs::path& golden, int64_t world, int64_t ep, uint64_t max_piece) {
  const CheckpointIndex index = read_checkpoint_index(golden / "model");
  const auto layout = make_layout(HfConfig::read(golden / "model"));
  const auto specs = image_specs(*layout, stored_in(index), BaseFormat::kBFloat16);
  const Placement placement(specs, layout->shape().num_experts, Mesh::make(world, {ep, {}, {}}));
  check_checkpoint(specs, index, [&](const std::string& tensor) { return layout->why_skipped(tensor); });
  const CheckpointFiles files(index);
  // By image and first expert, for ranks of one ep group have different ones.
  std::map<const LayerImage*, at::Tensor> images;
  for (int64_t rank = 0; rank < world; ++rank) {
    const LoadPlan plan = plan_reads(placement.shards_of(rank), index);
    uint64_t read_bytes = 0;
    for (const SharedRead& read : merge_plans({plan}, max_piece)) {
      std::vector<std::byte> bytes(read.from.landed_nbytes());
      ASSERT_LE(bytes.size(), max_piece);
      files.read(read.from, bytes);
      read_bytes += read.from.read_nbytes();
      const Target& target = read.targets.front();
      const ShardPlan& shard = plan.shards[target.image];
      at::Tensor& image = images[shard.image];
      if (!image.defined()) image = at::zeros({static_cast<int64_t>(shard.image->nbytes)}, at::kByte);
      ASSERT_LE(target.shard_offset + bytes.size(), shard.shard.size());
      std::memcpy(image.mutable_data_ptr<uint8_t>() + shard.shard.begin + target.shard_offset, bytes.data(),
                  bytes.size());
    }
    EXPECT_GE(read_bytes, plan.read_bytes);  // pieces may need the same row of scales
  }
  int64_t from_quantised = 0;
  for (const auto& [image, bytes] : images) {
    const ImageView view(*image, bytes);
    for (const Slot& slot : image->slots) {
      EXPECT_FALSE(slot.name.ends_with("_scale") && slot.name.find("hc") == slot.name.npos) << slot.name;
      from_quantised += !slot.parts.front().scale.empty();
      const at::Tensor expected = expected_elements(slot, index);
      EXPECT_TRUE(at::equal(view[slot.name].reshape({-1}), expected)) << image->name << " " << slot.name;
    }
  }
  EXPECT_GT(from_quantised, 10);
}

TEST(BaseFormat, EqualsTheDequantisedGoldenHoweverShardsAndReadsAreCut) {
  for (const fs::path& golden : {kGolden, kQwen3, kQwen3_5}) {
    expect_dequantised(golden, 1, 1, 8 << 20);
    expect_dequantised(golden, 1, 1, 1002);  // within rows and blocks
    expect_dequantised(golden, 7, 1, 8 << 20);
    expect_dequantised(golden, 6, 3, 90);
  }
}

TEST(BaseFormat, IsTheComputeDtype) {
  const CheckpointIndex index = read_checkpoint_index(kGolden / "model");
  const auto layout = make_layout(HfConfig::read(kGolden / "model"), DtypeChoice::kFloat32);
  EXPECT_THROW(image_specs(*layout, stored_in(index), BaseFormat::kBFloat16), Error);
  // Nothing is quantised there.
  const fs::path plain = golden_folder("qwen3_moe-fp32") / "model";
  const CheckpointIndex plain_index = read_checkpoint_index(plain);
  const auto plain_layout = make_layout(HfConfig::read(plain), DtypeChoice::kFloat32);
  EXPECT_EQ(image_specs(*plain_layout, stored_in(plain_index), BaseFormat::kBFloat16).size(), 9);
}

TEST(BaseFormat, ScalesAreCheckedBeforeTheFirstRead) {
  CheckpointIndex index = read_checkpoint_index(kGolden / "model");
  const auto layout = make_layout(HfConfig::read(kGolden / "model"));
  const auto specs = image_specs(*layout, stored_in(index), BaseFormat::kBFloat16);
  const auto check = [&] {
    check_checkpoint(specs, index, [&](const std::string& tensor) { return layout->why_skipped(tensor); });
  };
  check();
  CheckpointTensor& scales = index.tensors.at("layers.1.ffn.experts.2.w3.scale");
  const auto was = scales;
  scales.entry.shape = {1, 1};
  EXPECT_THROW(check(), Error);
  scales = was;
  index.tensors.erase("layers.1.ffn.experts.2.w3.scale");
  EXPECT_THROW(check(), Error);
}

}  // namespace
}  // namespace moraine
