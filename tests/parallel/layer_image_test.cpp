#include "parallel/layer_image.h"

#include <gtest/gtest.h>

#include "parallel/weight_store.h"

namespace moraine {
namespace {

ImageSpec two_params() {
  ImageSpec spec{"layer", ImageKind::kDense, {}};
  spec.params.push_back({"norm", ParamKind::kDense, {3}, DType::kBF16, {{"t.norm", {3}, 0}}});
  ParamSpec experts{"experts", ParamKind::kExperts, {5, 4, 2}, DType::kF32, {}};
  for (int64_t e = 0; e < 5; ++e) {
    experts.sources.push_back({"t." + std::to_string(e) + ".gate", {2, 2}, e * 8});
    experts.sources.push_back({"t." + std::to_string(e) + ".up", {2, 2}, e * 8 + 4});
  }
  spec.params.push_back(experts);
  return spec;
}

TEST(LayerImage, SlotsAreAlignedAndHoldThisRanksExperts) {
  const LayerImage image = lay_out_image(two_params(), {1, 3}, 2);
  ASSERT_EQ(image.slots.size(), 2u);
  EXPECT_EQ(image.slots[1].offset % kImageAlignment, 0u);
  EXPECT_EQ(image.slots[1].shape, (std::vector<int64_t>{3, 4, 2}));
  ASSERT_EQ(image.slots[1].parts.size(), 6u);
  EXPECT_EQ(image.slots[1].parts[0].tensor, "t.1.gate");
  EXPECT_EQ(image.slots[1].parts[5].tensor, "t.3.up");
  EXPECT_EQ(image.slots[1].parts[5].slot_element, 20);
  EXPECT_EQ(image.nbytes % (2 * kImageAlignment), 0u);
}

TEST(LayerImage, FusedSourceIsCutAtExperts) {
  ImageSpec spec{"layer",
                 ImageKind::kExperts,
                 {{"experts", ParamKind::kExperts, {5, 4, 2}, DType::kF32, {{"fused", {5, 4, 2}, 0}}}}};
  const LayerImage image = lay_out_image(spec, {3, 2}, 1);
  ASSERT_EQ(image.slots[0].parts.size(), 1u);
  EXPECT_EQ(image.slots[0].parts[0].source_element, 24);
  EXPECT_EQ(image.slots[0].parts[0].num_elements, 16);
}

TEST(LayerImage, ShardsCoverTheImage) {
  const LayerImage image = lay_out_image(two_params(), {0, 5}, 3);
  uint64_t next = 0;
  for (int64_t i = 0; i < 3; ++i) {
    const ByteRange shard = shard_of_image(image, 3, i);
    EXPECT_EQ(shard.begin, next);
    EXPECT_EQ(shard.begin % kImageAlignment, 0u);
    next = shard.end;
  }
  EXPECT_EQ(next, image.nbytes);
}

TEST(LayerImageDeathTest, AGapBetweenSourcesIsABug) {
  ImageSpec spec{
      "layer", ImageKind::kExperts, {{"w", ParamKind::kDense, {4}, DType::kF32, {{"a", {1}, 0}, {"b", {2}, 2}}}}};
  EXPECT_DEATH(lay_out_image(spec, {}, 1), "sources of w");
}

TEST(WeightStore, SlotsAreViewsOfTheImage) {
  LayerImage image = lay_out_image(two_params(), {0, 5}, 1);
  at::Tensor bytes = allocate_image_bytes(image.nbytes, at::kCPU).zero_();
  ProcessGroup self;
  WeightStore store({{image, bytes, &self, 0}});
  const ImageView& view = store.acquire(0);
  view["experts"].fill_(1.0);
  EXPECT_EQ(view["experts"].sizes(), (std::vector<int64_t>{5, 4, 2}));
  EXPECT_EQ(view["norm"].scalar_type(), at::kBFloat16);
  EXPECT_EQ(bytes.count_nonzero().item<int64_t>(), 5 * 4 * 2 * 2);  // 1.0f has two non-zero bytes
  store.release(0);
}

}  // namespace
}  // namespace moraine
