// Part of every test program that computes with libtorch: it computes as the program does, and each test draws the same
// numbers on every run (libtorch's generator otherwise begins with one of the system's; --gtest_random_seed=N draws
// others). On the test device, faults in the order of streams fail the test.
#include <ATen/Context.h>
#include <gtest/gtest.h>

#include "base/cpu_features.h"
#include "device/device_streams.h"

namespace {

class SetUpEachTest : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo&) override { at::manual_seed(GTEST_FLAG_GET(random_seed)); }
  void OnTestEnd(const testing::TestInfo&) override {
    for (const std::string& fault : moraine::testing_support::take_faults()) ADD_FAILURE() << "test device: " << fault;
  }
};

[[maybe_unused]] const bool listening = [] {
  moraine::settle_cpu_computation();
  testing::UnitTest::GetInstance()->listeners().Append(new SetUpEachTest);  // GoogleTest owns it
  return true;
}();

}  // namespace
