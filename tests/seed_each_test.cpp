// Part of every test program that draws with torch, whose generator otherwise begins with a number of the system's: a
// test draws the same numbers on every run. --gtest_random_seed=N draws others.
#include <ATen/Context.h>
#include <gtest/gtest.h>

namespace {

class SeedEachTest : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo&) override { at::manual_seed(GTEST_FLAG_GET(random_seed)); }
};

[[maybe_unused]] const bool listening = [] {
  testing::UnitTest::GetInstance()->listeners().Append(new SeedEachTest);  // GoogleTest owns it
  return true;
}();

}  // namespace
