#include "text/rows/micro_batches.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace moraine {
namespace {

std::vector<int64_t> tokens_of(const std::vector<int64_t>& rows, const std::vector<RowRange>& ranges) {
  std::vector<int64_t> sums;
  for (const RowRange& range : ranges)
    sums.push_back(std::accumulate(rows.begin() + range.begin, rows.begin() + range.end, int64_t{0}));
  return sums;
}

using Sums = std::vector<int64_t>;

TEST(MicroBatches, RowsShareTokensInOrderAndLongOnesAreAlone) {
  const std::vector<int64_t> rows{30, 60, 200, 10, 10, 10};
  EXPECT_EQ(tokens_of(rows, cut_by_tokens(rows, 100, 1)), (Sums{90, 200, 30}));
  EXPECT_EQ(tokens_of(rows, cut_by_tokens(rows, 1000, 1)), (Sums{320}));
  EXPECT_EQ(tokens_of(rows, cut_by_tokens(rows, 1, 1)), (Sums{30, 60, 200, 10, 10, 10}));
}

// What fits one rank's micro-batch is spread over all ranks: none waits for another with more than it needs.
TEST(MicroBatches, RanksShareEvenly) {
  EXPECT_EQ(tokens_of(Sums(16, 500), cut_by_tokens(Sums(16, 500), 8192, 8)), Sums(8, 1000));
  EXPECT_EQ(tokens_of(Sums(10, 100), cut_by_tokens(Sums(10, 100), 800, 2)), (Sums{500, 500}));
  EXPECT_EQ(tokens_of(Sums(3, 7), cut_by_tokens(Sums(3, 7), 800, 8)), Sums(3, 7)) << "five ranks have none";
}

TEST(MicroBatches, EveryCutTakesTheFewestPassesAndTheSmallestLimitForThem) {
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    std::vector<int64_t> rows(1 + random() % 40);
    for (int64_t& tokens : rows) tokens = 1 + random() % 120;
    const int64_t most = 1 + random() % 300, world = 1 + random() % 5;
    const auto ranges = cut_by_tokens(rows, most, world);
    const auto passes = [&](const std::vector<RowRange>& cut) {
      return (static_cast<int64_t>(cut.size()) + world - 1) / world;
    };
    int64_t next = 0, largest = 0;
    for (const RowRange& range : ranges) {
      ASSERT_EQ(range.begin, next);
      ASSERT_GT(range.end, range.begin);
      next = range.end;
      const int64_t tokens = tokens_of(rows, {range})[0];
      ASSERT_TRUE(tokens <= most || range.end == range.begin + 1);
      if (range.end > range.begin + 1) largest = std::max(largest, tokens);
    }
    ASSERT_EQ(next, static_cast<int64_t>(rows.size()));
    if (largest > 1) {
      ASSERT_GT(passes(cut_by_tokens(rows, largest - 1, world)), passes(ranges));
    }
    const auto of_one_rank = static_cast<int64_t>(cut_by_tokens(rows, most, 1).size());
    ASSERT_EQ(passes(ranges), (of_one_rank + world - 1) / world);
  }
}

TEST(MicroBatches, ByRowsTheyAreThoseOfRowsOfMicroStep) {
  std::vector<Sample> samples(7);
  std::vector<TrainingRow> rows;
  for (Sample& sample : samples) {
    sample.input_ids.assign(10, 1);
    rows.push_back({&sample});
  }
  const MicroBatches by_rows(rows, {.rows = 2}, 2);
  EXPECT_EQ(by_rows.count(), 2);
  EXPECT_EQ(by_rows.samples_of(1, 0), (std::vector<const Sample*>{&samples[4], &samples[5]}));
  EXPECT_EQ(by_rows.samples_of(1, 1), (std::vector<const Sample*>{&samples[6]}));
  const MicroBatches by_tokens(rows, {.rows = 1, .tokens = 25}, 3);
  EXPECT_EQ(by_tokens.count(), 2);
  EXPECT_EQ(by_tokens.samples_of(0, 0), (std::vector<const Sample*>{&samples[0], &samples[1]}));
  EXPECT_TRUE(by_tokens.samples_of(1, 2).empty());
  EXPECT_EQ(by_tokens.rows_of(1, 2).begin, by_tokens.rows_of(1, 2).end);
}

}  // namespace
}  // namespace moraine
