#include "distributed/control/agreement.h"

#include <gtest/gtest.h>

namespace moraine {
namespace {

TEST(Agreement, TheFirstDifferenceNamesRankKeyAndBothValues) {
  const auto error =
      first_difference("rank 2", {{"recipe", "r"}, {"train.seed", "7"}}, {{"recipe", "r"}, {"train.seed", "0"}});
  ASSERT_TRUE(error);
  EXPECT_STREQ(error->what(),
               "rank 2: train.seed differs between ranks: '7' here, '0' on rank 0 (all ranks need the same recipe, "
               "checkpoint, data and program)");
  EXPECT_EQ(error->kind, ErrorKind::kInput);
}

TEST(Agreement, KeysThatOnlyOneHasDiffer) {
  EXPECT_NE(std::string(first_difference("rank 1", {{"a", "1"}, {"b", "2"}}, {{"a", "1"}})->what())
                .find("b differs between ranks: '2' here, nothing on rank 0"),
            std::string::npos);
  EXPECT_NE(std::string(first_difference("rank 1", {}, {{"a", "1"}})->what())
                .find("a differs between ranks: nothing here, '1' on rank 0"),
            std::string::npos);
  EXPECT_FALSE(first_difference("rank 1", {{"b", "2"}, {"a", "1"}}, {{"a", "1"}, {"b", "2"}}));
}

}  // namespace
}  // namespace moraine
