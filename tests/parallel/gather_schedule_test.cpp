#include "parallel/gather_schedule.h"

#include <gmock/gmock.h>

#include <string>

namespace moraine {
namespace {

using testing::ElementsAre;

// Lane 0: one image of two ranks. Lane 1: four, the last one larger. Image 5 is this rank's alone, image 6 empty.
std::vector<HeldImage> images() {
  return {{100, 50, 0}, {8, 4, 1}, {8, 4, 1}, {8, 4, 1}, {16, 8, 1}, {40, 40, 2}, {0, 0, 1}};
}

std::vector<int> residents(const GatherSchedule& schedule) {
  std::vector<int> images;
  for (int image = 0; image < 7; ++image)
    if (schedule.is_resident(image)) images.push_back(image);
  return images;
}

TEST(GatherSchedule, KeepsWhatNoOtherRankHoldsAndGathersTheRest) {
  const GatherSchedule schedule(images(), 0);
  EXPECT_THAT(residents(schedule), ElementsAre(5, 6));
  EXPECT_EQ(schedule.held_bytes(), 50 + 4 * 3 + 8 + 40);
  EXPECT_EQ(schedule.buffers().size(), 3);  // one for the only image of lane 0, two for lane 1
  EXPECT_EQ(schedule.buffer_bytes(), 100 + 2 * 16);
}

TEST(GatherSchedule, ResidentBytesAreSpentOnTheFirstImagesThatFit) {
  const GatherSchedule some(images(), 9);  // not the 50 of the first one; then twice 4
  EXPECT_THAT(residents(some), ElementsAre(1, 2, 5, 6));
  EXPECT_EQ(some.held_bytes(), 50 + 8 * 2 + 4 + 8 + 40);
  const GatherSchedule most(images(), 50 + 4 * 3);
  EXPECT_THAT(residents(most), ElementsAre(0, 1, 2, 3, 5, 6));
  EXPECT_EQ(most.buffer_bytes(), 16);  // one buffer for the one image that is left
  const GatherSchedule all(images(), 1000);
  EXPECT_TRUE(all.all_resident());
  EXPECT_EQ(all.held_bytes(), 100 + 8 * 3 + 16 + 40);
}

// The images that are gathered while layers of these images run in turn, the next one's wanted while each runs.
std::string gathered(GatherSchedule& schedule, const std::vector<int>& order) {
  std::string text;
  const auto want = [&](int image) {
    if (schedule.want(image).gathers) text += std::to_string(image) + " ";
  };
  for (size_t i = 0; i < order.size(); ++i) {
    schedule.acquire(order[i]);
    want(order[i]);
    if (i + 1 < order.size()) want(order[i + 1]);
    EXPECT_TRUE(schedule.release(order[i]));
  }
  return text;
}

TEST(GatherSchedule, TheTwoImagesUsedLastAreStillThere) {
  GatherSchedule schedule(images(), 0);
  EXPECT_EQ(gathered(schedule, {1, 2, 3, 4}), "1 2 3 4 ");
  EXPECT_EQ(gathered(schedule, {4, 3, 2, 1}), "2 1 ");
  EXPECT_EQ(gathered(schedule, {1, 2, 3, 4}), "3 4 ");
  EXPECT_EQ(gathered(schedule, {0, 0}), "0 ");
}

TEST(GatherSchedule, ADroppedImageIsGatheredAgain) {
  GatherSchedule schedule(images(), 0);
  const size_t buffer = schedule.want(1).buffer;
  schedule.acquire(1);
  schedule.acquire(1);
  EXPECT_FALSE(schedule.release(1));
  EXPECT_TRUE(schedule.release(1));
  EXPECT_EQ(schedule.drop(1), buffer);
  EXPECT_TRUE(schedule.want(1).gathers);
}

TEST(GatherScheduleDeathTest, ABufferIsNeverTakenFromItsUser) {
  GatherSchedule schedule(images(), 0);
  for (int image : {1, 2}) {
    schedule.want(image);
    schedule.acquire(image);
  }
  EXPECT_DEATH(schedule.want(3), "all gather buffers are held");
  EXPECT_DEATH(schedule.release(3), "not held");
}

TEST(GatherSchedule, OfOffloadedImagesEverySecondIsKept) {
  std::vector<HeldImage> images{{100, 100, 0}};  // stays on the device
  for (int layer = 0; layer < 6; ++layer) images.push_back({100, 0, 1, true});
  const auto resident = [&](uint64_t bytes) {
    const GatherSchedule schedule(images, bytes);
    std::string kept;
    for (int i = 0; i < 7; ++i) kept += schedule.is_resident(i) ? 'x' : '.';
    EXPECT_EQ(schedule.held_bytes() + schedule.host_bytes(), 700u);
    EXPECT_EQ(schedule.buffer_bytes(), kept == "xxxxxxx" ? 0u : kept == "xxxxxx." ? 100u : 200u);
    return kept;
  };
  EXPECT_EQ(resident(0), "x......");
  EXPECT_EQ(resident(250), "xx.x...");
  EXPECT_EQ(resident(400), "xxxx.x.");
  EXPECT_EQ(resident(599), "xxxxxx.");
  EXPECT_EQ(resident(600), "xxxxxxx");
}

}  // namespace
}  // namespace moraine
