// The CPU's kernels of one pass at widths that fill no register, in bf16, and with numbers that are none.
#include "kernels/row_ops.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "nn/norm.h"
#include "nn/swiglu.h"
#include "tensor/kernel_matrix.h"

namespace moraine {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

// Of bf16's last digit where the tensors are bf16.
void expect_near(const at::Tensor& found, const at::Tensor& wanted) {
  const double unit = found.scalar_type() == at::kBFloat16 ? 1.0 / 64 : 1e-5;
  const at::Tensor error = (found.to(at::kDouble) - wanted.to(at::kDouble)).abs();
  EXPECT_TRUE(error.le((wanted.to(at::kDouble).abs() + 0.1) * unit).all().item<bool>()) << wanted.sizes();
}

class RowOps : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { at::manual_seed(5); }
  at::Tensor random(std::vector<int64_t> shape) { return (at::randn(shape) * 3).to(GetParam()); }
};

TEST_P(RowOps, AnyWidth) {
  for (const int64_t width : {1, 7, 16, 17, 43, 64}) {
    const at::Tensor x = random({5, width}), weight = random({width}), x64 = x.to(at::kDouble);
    expect_near(rms_norm(x, weight, 1e-6), x64 * (x64.square().mean(-1, true) + 1e-6).rsqrt() * weight.to(at::kDouble));
    const at::Tensor gate_up = random({5, 2 * width}).to(at::kDouble);
    for (const double limit : {kInfinite, 1.5}) {
      const at::Tensor gate = gate_up.narrow(1, 0, width).clamp_max(limit),
                       up = gate_up.narrow(1, width, width).clamp(-limit, limit);
      expect_near(swiglu(gate_up.to(GetParam()), limit), at::silu(gate) * up);
    }
    const at::Tensor pairs = gate_up.to(GetParam()).to(at::kDouble).view({5, width, 2}),
                     gate = pairs.select(2, 0).clamp_max(4.0), up = pairs.select(2, 1).clamp(-4.0, 4.0);
    expect_near(clamped_swiglu(gate_up.to(GetParam()), 4.0), (up + 1) * gate * (gate * 1.702).sigmoid());
    const at::Tensor logits = random({5, width}) * 4, log_sum = logits.to(at::kDouble).logsumexp(-1, true);
    const at::Tensor targets = at::randint(width, {5}), at_target = targets.unsqueeze(1);
    const at::Tensor losses = at::empty({5}), dlogits = logits.clone();
    const float scale = 0.5;
    kernels::cross_entropy(mutable_kernel_matrix(dlogits), targets.const_data_ptr<int64_t>(), 5, width, &scale,
                           losses.mutable_data_ptr<float>());
    expect_near(losses, (log_sum - logits.to(at::kDouble).gather(1, at_target)).squeeze(1));
    expect_near(dlogits, ((logits.to(at::kDouble) - log_sum).exp() -
                          at::zeros({5, width}, at::kDouble).scatter_(1, at_target, 1.0)) *
                             0.5);
  }
}

TEST_P(RowOps, WhatIsNoNumberStaysNone) {
  for (const int64_t place : {0, 20, 40, 79}) {
    at::Tensor gate_up = random({1, 80});
    gate_up[0][place] = std::nan("");
    for (const double limit : {kInfinite, 1.5})
      EXPECT_TRUE(swiglu(gate_up, limit)[0][place % 40].isnan().item<bool>()) << place << " " << limit;
    EXPECT_TRUE(clamped_swiglu(gate_up, 4.0)[0][place / 2].isnan().item<bool>()) << place;
    EXPECT_TRUE(rms_norm(gate_up, random({80}), 1e-6).isnan().all().item<bool>());
    const at::Tensor losses = at::empty({1});
    const int64_t target = 3;
    kernels::cross_entropy(mutable_kernel_matrix(gate_up), &target, 1, 80, nullptr, losses.mutable_data_ptr<float>());
    EXPECT_TRUE(losses.isnan().all().item<bool>());
  }
}

TEST_P(RowOps, LogitsOfAnySize) {
  const at::Tensor logits = at::zeros({3, 40}).to(GetParam()), losses = at::empty({3});
  logits[0].fill_(30000);
  logits[1][7] = 30000;
  logits[2].fill_(-std::numeric_limits<float>::infinity());
  logits[2][9] = 2;
  const std::vector<int64_t> targets{1, 7, 9};
  kernels::cross_entropy(mutable_kernel_matrix(logits), targets.data(), 3, 40, nullptr,
                         losses.mutable_data_ptr<float>());
  EXPECT_NEAR(losses[0].item<float>(), std::log(40.0), 1e-2);
  EXPECT_EQ(losses[1].item<float>(), 0);
  EXPECT_EQ(losses[2].item<float>(), 0);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, RowOps, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return std::string(at::toString(info.param)); });

}  // namespace
}  // namespace moraine
