#include "text/rows/batch_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

namespace moraine {
namespace {

std::vector<int64_t> first_rows(const BatchStream& stream, int64_t num_steps) {
  std::vector<int64_t> rows;
  for (int64_t step = 0; step < num_steps; ++step) {
    std::vector<int64_t> batch = stream.rows_of_step(step);
    rows.insert(rows.end(), batch.begin(), batch.end());
  }
  return rows;
}

TEST(BatchStream, WithoutShuffleRowsComeInOrderAndFromTheStartAgain) {
  BatchStream stream(5, 3, 0, false);
  EXPECT_THAT(stream.rows_of_step(0), testing::ElementsAre(0, 1, 2));
  EXPECT_THAT(stream.rows_of_step(1), testing::ElementsAre(3, 4, 0));
  EXPECT_THAT(stream.rows_of_step(3), testing::ElementsAre(4, 0, 1));
}

TEST(BatchStream, BatchMayHoldMoreThanAllRows) {
  EXPECT_THAT(BatchStream(2, 5, 0, false).rows_of_step(1), testing::ElementsAre(1, 0, 1, 0, 1));
}

TEST(BatchStream, EveryEpochHoldsEachRowOnce) {
  for (int64_t num_rows : {1, 2, 7, 64, 1000}) {
    for (int64_t batch_size : {1, 3, 8, 100}) {
      const int64_t num_epochs = 3;
      std::vector<int64_t> rows =
          first_rows(BatchStream(num_rows, batch_size, 42, true), num_rows * num_epochs / batch_size + 1);
      for (int64_t epoch = 0; epoch < num_epochs; ++epoch) {
        std::vector<int64_t> seen(rows.begin() + epoch * num_rows,
                                  rows.begin() + std::min<int64_t>((epoch + 1) * num_rows, rows.size()));
        if (static_cast<int64_t>(seen.size()) < num_rows) continue;
        std::sort(seen.begin(), seen.end());
        std::vector<int64_t> all(static_cast<size_t>(num_rows));
        std::iota(all.begin(), all.end(), int64_t{0});
        EXPECT_EQ(seen, all) << num_rows << " rows, batch " << batch_size << ", epoch " << epoch;
      }
    }
  }
}

TEST(BatchStream, TheSequenceDoesNotDependOnTheBatchSize) {
  const std::vector<int64_t> one = first_rows(BatchStream(17, 1, 5, true), 60);
  for (int64_t batch_size : {2, 3, 10, 20}) {
    EXPECT_EQ(first_rows(BatchStream(17, batch_size, 5, true), 60 / batch_size), one);
  }
}

TEST(BatchStream, AnyStepCanBeAskedFirst) {
  const BatchStream walked(11, 4, 9, true);
  first_rows(walked, 50);
  EXPECT_EQ(BatchStream(11, 4, 9, true).rows_of_step(30), walked.rows_of_step(30));
  EXPECT_EQ(BatchStream(11, 4, 9, true).rows_of_step(int64_t{1} << 60).size(), 4u);
}

TEST(BatchStream, SeedsAndEpochsDiffer) {
  const auto epoch = [](uint64_t seed, int64_t step) { return BatchStream(100, 100, seed, true).rows_of_step(step); };
  EXPECT_NE(epoch(0, 0), epoch(1, 0));
  EXPECT_NE(epoch(0, 0), epoch(0, 1));
  EXPECT_NE(epoch(0, 1), epoch(1, 0));
  std::vector<int64_t> in_order(100);
  std::iota(in_order.begin(), in_order.end(), int64_t{0});
  EXPECT_NE(epoch(0, 0), in_order);
}

// Runs resume on another version or machine: the order is part of the format.
TEST(BatchStream, OrderIsFixed) {
  EXPECT_THAT(BatchStream(10, 10, 0, true).rows_of_step(0), testing::ElementsAre(0, 6, 2, 8, 4, 1, 9, 5, 3, 7));
  EXPECT_THAT(BatchStream(10, 10, 1234, true).rows_of_step(7), testing::ElementsAre(7, 8, 1, 3, 6, 9, 2, 4, 0, 5));
}

TEST(BatchStream, PermutationsAreUniform) {
  std::map<std::vector<int64_t>, int> counts;
  for (uint64_t seed = 0; seed < 6000; ++seed) ++counts[BatchStream(3, 3, seed, true).rows_of_step(0)];
  ASSERT_EQ(counts.size(), 6u);
  // 1000 each; the standard deviation is 29.
  for (const auto& [order, count] : counts) EXPECT_NEAR(count, 1000, 150);
}

TEST(MicroSteps, RanksAndMicroStepsHoldTheStepsRowsInOrderOnEveryMesh) {
  for (int64_t batch_size : {1, 2, 5, 8, 13}) {
    for (int64_t world : {1, 2, 3, 8}) {
      for (int64_t micro : {1, 2, 4}) {
        const int64_t steps = num_micro_steps(batch_size, micro, world);
        int64_t dealt = 0;
        for (int64_t step = 0; step < steps; ++step) {
          for (int64_t rank = 0; rank < world; ++rank) {
            const RowRange rows = rows_of_micro_step(batch_size, step, rank, world, micro);
            EXPECT_EQ(rows.begin, dealt);
            EXPECT_LE(rows.end - rows.begin, micro);
            dealt = rows.end;
          }
        }
        EXPECT_EQ(dealt, batch_size) << "batch " << batch_size << ", world " << world << ", micro " << micro;
        for (int64_t rank = 0; rank < world; ++rank) {
          int64_t of_rank = 0;
          for (int64_t step = 0; step < steps; ++step) {
            const RowRange rows = rows_of_micro_step(batch_size, step, rank, world, micro);
            of_rank += rows.end - rows.begin;
          }
          EXPECT_EQ(num_rows_of_step(batch_size, rank, world, micro), of_rank);
        }
        // No micro-step in which nobody has a row.
        const RowRange last = rows_of_micro_step(batch_size, steps - 1, 0, world, micro);
        EXPECT_LT(last.begin, last.end);
      }
    }
  }
}

TEST(MicroSteps, ARankMayGetNone) {
  EXPECT_EQ(num_micro_steps(3, 1, 8), 1);
  const RowRange none = rows_of_micro_step(3, 0, 5, 8, 1), last = rows_of_micro_step(3, 0, 2, 8, 1);
  EXPECT_EQ(none.begin, none.end);
  EXPECT_EQ(last.begin, 2);
  EXPECT_EQ(last.end, 3);
}

}  // namespace
}  // namespace moraine
