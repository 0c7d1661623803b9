#include "load/plan.h"

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"

namespace moraine {
namespace {

// A checkpoint index that exists only in memory: tensors one after another in files of a few tensors each.
struct FakeCheckpoint {
  CheckpointIndex index;
  void add(const std::string& name, std::vector<int64_t> shape, DType dtype) {
    if (index.files.empty() || index.files.back().entries.size() == 3) {
      index.files.push_back({"file" + std::to_string(index.files.size()), 0, 0, {}, {}});
    }
    SafetensorsHeader& file = index.files.back();
    SafetensorsEntry entry{name, dtype, shape, file.file_size, num_elements(shape) * dtype_bits(dtype) / 8ull};
    file.file_size += entry.nbytes;
    file.entries.push_back(entry);
    index.tensors[name] = {static_cast<int>(index.files.size()) - 1, entry};
  }
};

struct Random {
  std::mt19937_64 engine;
  int64_t between(int64_t lo, int64_t hi) { return lo + static_cast<int64_t>(engine() % (hi - lo + 1)); }
};

// A model of one dense and one experts image with random shapes, stored in either layout and any float dtype.
std::vector<ImageSpec> random_model(Random& random, FakeCheckpoint& checkpoint, int64_t& num_experts) {
  const DType floats[] = {DType::kF32, DType::kBF16, DType::kF16};
  ImageSpec dense{"dense", {}}, experts{"experts", {}};
  for (int64_t i = random.between(1, 4); i > 0; --i) {
    const std::string name = "dense" + std::to_string(i);
    const std::vector<int64_t> shape{random.between(1, 40), random.between(1, 9)};
    dense.params.push_back({name, ParamKind::kDense, shape, floats[random.between(0, 1)], {{name, shape, 0}}});
    checkpoint.add(name, shape, floats[random.between(0, 2)]);
  }
  num_experts = random.between(1, 9);
  const int64_t I = random.between(1, 6), H = random.between(1, 6);
  ParamSpec param{"experts", ParamKind::kExperts, {num_experts, 2 * I, H}, floats[random.between(0, 1)], {}};
  const DType stored = floats[random.between(0, 2)];
  if (random.between(0, 1)) {
    param.sources.push_back({"fused", param.shape, 0});
    checkpoint.add("fused", param.shape, stored);
  } else {
    for (int64_t e = 0; e < num_experts; ++e) {
      for (int64_t half = 0; half < 2; ++half) {
        const std::string name = "e" + std::to_string(e) + (half ? ".up" : ".gate");
        param.sources.push_back({name, {I, H}, (e * 2 + half) * I * H});
        checkpoint.add(name, {I, H}, stored);
      }
    }
  }
  experts.params.push_back(param);
  return {dense, experts};
}

// Every element of every slot is read exactly once by the ranks of its group, from in-bounds bytes.
TEST(LoadPlan, CoversEveryElementOnceOnEveryMesh) {
  Random random{std::mt19937_64(3)};
  for (int round = 0; round < 300; ++round) {
    FakeCheckpoint checkpoint;
    int64_t num_experts = 0;
    const std::vector<ImageSpec> specs = random_model(random, checkpoint, num_experts);
    const int64_t ep = random.between(1, num_experts), shards = random.between(1, 5);
    uint64_t element_reads = 0, elements = 0;
    for (const ImageSpec& spec : specs)
      for (const ParamSpec& p : spec.params) elements += num_elements(p.shape) * (p.kind == ParamKind::kDense ? ep : 1);
    for (int64_t e = 0; e < ep; ++e) {
      std::vector<LayerImage> images;
      for (const ImageSpec& spec : specs) images.push_back(lay_out_image(spec, expert_range(num_experts, ep, e), shards));
      std::vector<std::vector<uint8_t>> written;
      for (const LayerImage& image : images) written.emplace_back(image.nbytes, 0);
      for (int64_t s = 0; s < shards; ++s) {
        std::vector<ShardPlan> shard_plans;
        for (const LayerImage& image : images) shard_plans.push_back({&image, shard_of_image(image, shards, s)});
        const LoadPlan plan = plan_reads(shard_plans, checkpoint.index);
        uint64_t bytes = 0;
        for (const ReadRange& r : plan.reads) {
          ASSERT_LE(r.file_offset + r.file_nbytes, checkpoint.index.files[r.file].file_size);
          ASSERT_LE(r.shard_offset + r.shard_nbytes, shard_plans[r.image].shard.size());
          ASSERT_EQ(r.file_nbytes / (dtype_bits(r.stored) / 8), r.shard_nbytes / (dtype_bits(r.wanted) / 8));
          bytes += r.file_nbytes;
          element_reads += r.file_nbytes / (dtype_bits(r.stored) / 8);
          for (uint64_t b = 0; b < r.shard_nbytes; ++b)
            ASSERT_EQ(written[r.image][shard_plans[r.image].shard.begin + r.shard_offset + b]++, 0);
        }
        EXPECT_EQ(bytes, plan.read_bytes);
      }
      for (size_t i = 0; i < images.size(); ++i)
        for (const Slot& slot : images[i].slots)
          for (uint64_t b = 0; b < slot.nbytes; ++b) ASSERT_EQ(written[i][slot.offset + b], 1) << slot.name;
    }
    EXPECT_EQ(element_reads, elements);
  }
}

TEST(LoadPlan, NamesMissingAndWrongShapedTensors) {
  ImageSpec spec{"dense", {{"w", ParamKind::kDense, {4, 2}, DType::kF32, {{"w", {4, 2}, 0}}}}};
  const LayerImage image = lay_out_image(spec, {}, 1);
  auto error_of = [&](const FakeCheckpoint& checkpoint) {
    try {
      plan_reads({{&image, shard_of_image(image, 1, 0)}}, checkpoint.index);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  FakeCheckpoint without, wrong_shape, wrong_dtype, extra;
  wrong_shape.add("w", {2, 4}, DType::kF32);
  wrong_dtype.add("w", {4, 2}, DType::kI64);
  EXPECT_NE(error_of(without).find("tensor w is missing"), std::string::npos);
  EXPECT_NE(error_of(wrong_shape).find("tensor w has shape [2, 4], config.json implies [4, 2]"), std::string::npos);
  EXPECT_NE(error_of(wrong_dtype).find("tensor w has dtype I64"), std::string::npos);
  extra.add("w", {4, 2}, DType::kF32);
  extra.add("x", {1}, DType::kF32);
  auto none = [](const std::string&) { return false; };
  EXPECT_THROW(check_no_unexpected({spec}, extra.index, none), Error);
  EXPECT_NO_THROW(check_no_unexpected({spec}, extra.index, [](const std::string& name) { return name == "x"; }));
}

}  // namespace
}  // namespace moraine
