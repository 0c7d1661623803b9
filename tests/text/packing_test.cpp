#include "text/rows/packing.h"

#include <gmock/gmock.h>

#include <random>

#include "text/rows/dataset_bytes.h"

namespace moraine {
namespace {

std::vector<Sample> samples_of_lengths(const std::vector<int64_t>& lengths) {
  std::vector<Sample> samples;
  for (int64_t length : lengths) {
    Sample sample;
    for (int64_t i = 0; i < length; ++i) {
      sample.input_ids.push_back(100 * static_cast<int64_t>(samples.size()) + i);
      sample.labels.push_back(i);
      sample.position_ids.push_back(i);
    }
    samples.push_back(sample);
  }
  return samples;
}

TEST(Packing, FillsRowsAndKeepsOrder) {
  EXPECT_THAT(pack_samples(samples_of_lengths({3, 10, 4, 6, 7}), 10),
              testing::ElementsAre(testing::ElementsAre(0, 4), testing::ElementsAre(1), testing::ElementsAre(2, 3)));
  EXPECT_THAT(pack_samples(samples_of_lengths({20, 1}), 10),
              testing::ElementsAre(testing::ElementsAre(0), testing::ElementsAre(1)));
  EXPECT_THAT(pack_samples({}, 10), testing::IsEmpty());
}

TEST(Packing, EverySampleOnceAndNoRowTooLong) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 300; ++round) {
    std::vector<int64_t> lengths(random() % 200);
    int64_t tokens = 0;
    for (int64_t& length : lengths) tokens += length = 1 + static_cast<int64_t>(random() % 64);
    const auto samples = samples_of_lengths(lengths);
    const auto rows = pack_samples(samples, 64);
    std::vector<int> seen(samples.size(), 0);
    for (const auto& row : rows) {
      int64_t length = 0;
      for (int64_t sample : row) {
        length += lengths[sample];
        ++seen[sample];
      }
      EXPECT_LE(length, 64);
      EXPECT_TRUE(std::is_sorted(row.begin(), row.end()));
    }
    EXPECT_THAT(seen, testing::Each(1));
    EXPECT_TRUE(std::is_sorted(rows.begin(), rows.end()));
    EXPECT_LE(static_cast<int64_t>(rows.size()), (tokens + 63) / 64 * 11 / 9 + 2);
  }
}

TEST(DatasetBytes, AreReadBack) {
  Dataset data{samples_of_lengths({3, 1, 7}), 2, 5, 4};
  data.samples[1].labels[0] = -100;
  const Dataset read = dataset_from_bytes(dataset_to_bytes(data));
  EXPECT_EQ(read.dropped, 2);
  EXPECT_EQ(read.truncated, 5);
  EXPECT_EQ(read.skipped, 4);
  ASSERT_EQ(read.samples.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(read.samples[i].input_ids, data.samples[i].input_ids);
    EXPECT_EQ(read.samples[i].labels, data.samples[i].labels);
    EXPECT_EQ(read.samples[i].position_ids, data.samples[i].position_ids);
  }
}

}  // namespace
}  // namespace moraine
