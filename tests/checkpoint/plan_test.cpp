#include "checkpoint/plan.h"

#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "checkpoint/check_checkpoint.h"
#include "checkpoint/fake_checkpoint.h"

namespace moraine {
namespace {

using testing_support::FakeCheckpoint;
using testing_support::FakeModel;
using testing_support::Random;

// Up to 1,024 ranks, small worlds more often.
Mesh random_mesh(Random& random, int64_t num_experts) {
  int64_t ep = int64_t{1} << random.between(0, 10);
  if (random.between(0, 3) == 0) ep = random.between(1, 12);
  ep = std::min(ep, num_experts);
  const int64_t room = 1024 / ep;
  const int64_t ep_fsdp = std::min<int64_t>(room, random.one_of<int64_t>({1, 1, 2, 3, 4, 5, 8, 16, 64, 1024}));
  const int64_t replicate = std::min<int64_t>(room / ep_fsdp, random.one_of<int64_t>({1, 1, 1, 2, 3, 8}));
  MeshRequest request{.ep = ep, .fsdp = {}, .replicate = replicate};
  const int64_t replica = ep * ep_fsdp;
  const int64_t fsdp = random.between(1, replica);
  if (random.between(0, 1) && replica % fsdp == 0) request.fsdp = fsdp;
  return Mesh::make(replica * replicate, request);
}

struct SourceOfParam {
  size_t image, param;
  int64_t first_element;
};

// Where tensors go, taken from the specs alone.
std::map<std::string, SourceOfParam> sources_by_name(const FakeModel& model) {
  std::map<std::string, SourceOfParam> sources;
  for (size_t i = 0; i < model.specs.size(); ++i)
    for (size_t p = 0; p < model.specs[i].params.size(); ++p)
      for (const SourceTensor& s : model.specs[i].params[p].sources) sources[s.name] = {i, p, s.first_element};
  return sources;
}

// Byte intervals of an image that ranks of one group fill.
using Intervals = std::vector<std::pair<uint64_t, uint64_t>>;

// The bytes of `image`'s slots, in order, joined where they touch.
Intervals slots_of(const LayerImage& image) {
  Intervals all;
  for (const Slot& slot : image.slots)
    if (slot.nbytes > 0) all.emplace_back(slot.offset, slot.offset + slot.nbytes);
  return all;
}

// Joins neighbours; an overlap makes an interval that no slot has.
Intervals joined(Intervals intervals, const Intervals& slots) {
  std::sort(intervals.begin(), intervals.end());
  Intervals result;
  for (auto [begin, end] : intervals) {
    const bool starts_slot = std::any_of(slots.begin(), slots.end(), [&](const auto& s) { return s.first == begin; });
    if (!result.empty() && result.back().second == begin && !starts_slot) {
      result.back().second = end;
    } else {
      result.emplace_back(begin, end);
    }
  }
  return result;
}

// Every element of every parameter is read exactly once by each group that shares an image, from the right bytes of the
// right tensor, within bounds, and the plan's totals are the sums.
TEST(LoadPlan, FiveThousandRandomPlansCoverEveryElementOnce) {
  Random random{std::mt19937_64(3)};
  int64_t most_ranks = 0, empty_shards = 0;
  for (int round = 0; round < 5000; ++round) {
    const FakeModel model = random_model(random);
    const CheckpointIndex& index = model.checkpoint.index;
    const auto sources = sources_by_name(model);
    const Mesh mesh = random_mesh(random, model.num_experts);
    SCOPED_TRACE(testing::Message() << "round " << round << ", " << mesh.describe() << ", experts "
                                    << model.num_experts);
    most_ranks = std::max(most_ranks, mesh.world_size());
    const Placement placement(model.specs, model.num_experts, mesh);
    // By image, then the first rank of the group that shares it.
    std::vector<std::map<int64_t, Intervals>> filled(model.specs.size());
    for (int64_t rank = 0; rank < mesh.world_size(); ++rank) {
      const LoadPlan plan = plan_reads(placement.shards_of(rank), index);
      uint64_t read_bytes = 0, shard_bytes = 0;
      for (const ShardPlan& shard : plan.shards) shard_bytes += shard.shard.size();
      for (const ReadRange& r : plan.reads) {
        read_bytes += r.from.nbytes;
        const CheckpointTensor& tensor = index.tensors.at(r.tensor);
        const SourceOfParam& source = sources.at(r.tensor);
        const ParamSpec& param = model.specs[source.image].params[source.param];
        const ShardPlan& shard = plan.shards[r.image];
        const uint64_t stored_size = dtype_bits(r.from.stored) / 8, wanted_size = dtype_bits(r.from.wanted) / 8;
        ASSERT_EQ(static_cast<size_t>(r.image), source.image);
        ASSERT_EQ(r.from.file, tensor.file);
        ASSERT_GE(r.from.offset, tensor.entry.offset);
        ASSERT_LE(r.from.end(), tensor.entry.offset + tensor.entry.nbytes);
        ASSERT_LE(r.shard_offset + r.from.landed_nbytes(), shard.shard.size());
        int64_t element =
            source.first_element + static_cast<int64_t>((r.from.offset - tensor.entry.offset) / stored_size);
        if (param.kind == ParamKind::kExperts)
          element -= placement.experts_of(rank).first * (num_elements(param.shape) / param.shape[0]);
        const uint64_t begin = shard.image->slots[source.param].offset + element * wanted_size;
        ASSERT_EQ(begin, shard.shard.begin + r.shard_offset) << r.tensor;
        const int64_t group = mesh.group(shard_axis(model.specs[r.image].kind), rank).front();
        filled[r.image][group].emplace_back(begin, begin + r.from.landed_nbytes());
      }
      ASSERT_EQ(plan.read_bytes, read_bytes);
      ASSERT_EQ(plan.shard_bytes, shard_bytes);
      empty_shards += plan.reads.empty();
    }
    for (size_t i = 0; i < model.specs.size(); ++i) {
      for (int64_t rank = 0; rank < mesh.world_size(); ++rank) {
        if (mesh.group(shard_axis(model.specs[i].kind), rank).front() != rank) continue;
        const Intervals slots = slots_of(placement.image(i, rank));
        ASSERT_EQ(joined(filled[i][rank], slots), slots) << model.specs[i].name << " of the group of rank " << rank;
      }
    }
  }
  EXPECT_EQ(most_ranks, 1024);
  EXPECT_GT(empty_shards, 0);  // ranks that read nothing at all take part too
}

std::string error_of(const ImageSpec& spec, const FakeCheckpoint& checkpoint) {
  try {
    check_checkpoint({spec}, checkpoint.index, [](const std::string&) { return std::nullopt; });
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(CheckCheckpoint, NamesMissingWrongAndUnexpectedTensors) {
  const ImageSpec spec{"dense", ImageKind::kDense, {{"w", ParamKind::kDense, {4, 2}, DType::kF32, {{"w", {4, 2}, 0}}}}};
  FakeCheckpoint without, wrong_shape, wrong_dtype, extra;
  without.add("v", {1}, DType::kF32);
  wrong_shape.add("w", {2, 4}, DType::kF32);
  wrong_dtype.add("w", {4, 2}, DType::kI64);
  extra.add("w", {4, 2}, DType::kF16);
  EXPECT_EQ(error_of(spec, extra), "");
  extra.add("x", {1}, DType::kF32);
  EXPECT_NE(error_of(spec, without).find("tensor w is missing"), std::string::npos);
  EXPECT_NE(error_of(spec, wrong_shape).find("file0: tensor w has shape [2, 4], config.json implies [4, 2]"),
            std::string::npos);
  EXPECT_NE(error_of(spec, wrong_dtype).find("file0: tensor w has dtype I64"), std::string::npos);
  EXPECT_NE(error_of(spec, extra).find("file0: 1 tensor that config.json does not imply, the first is x"),
            std::string::npos);
}

TEST(CheckCheckpoint, ListsWhatIsSkippedAndWhy) {
  FakeCheckpoint checkpoint;
  checkpoint.add("mtp.b", {1}, DType::kF32);
  checkpoint.add("mtp.a", {1}, DType::kF32);
  const auto skipped =
      check_checkpoint({}, checkpoint.index, [](const std::string&) { return "multi-token prediction"; });
  ASSERT_EQ(skipped.size(), 2u);
  EXPECT_EQ(skipped[0].tensor, "mtp.a");
  EXPECT_EQ(skipped[0].reason, "multi-token prediction");
}

TEST(AssumedIndex, HoldsEveryTensorInFilesOfTheAskedSize) {
  Random random{std::mt19937_64(1)};
  const FakeModel model = random_model(random);
  const CheckpointIndex index = assumed_index(model.specs, 100);
  EXPECT_NO_THROW(check_checkpoint(model.specs, index, [](const std::string&) { return std::nullopt; }));
  for (const SafetensorsHeader& file : index.files) EXPECT_TRUE(file.file_size <= 100 || file.entries.size() == 1);
}

}  // namespace
}  // namespace moraine
