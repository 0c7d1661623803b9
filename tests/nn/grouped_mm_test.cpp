// One kernel for all experts against the loop over them, in bf16, on the test_device().
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <numeric>

#include "device/test_device.h"
#include "nn/grouped_linear.h"
#include "nn/grouped_mm.h"

namespace moraine {
namespace {

constexpr int64_t kIn = 40, kOut = 24;

using testing_support::to_test_device;

at::Tensor random_bf16(std::vector<int64_t> shape) {
  return to_test_device(at::randn(shape, at::kDouble).to(at::kBFloat16));
}

struct Result {
  at::Tensor y, dx, a_grad, b_grad;
};

using Linear = at::Tensor (*)(const at::Tensor&, const FrozenWeight&, const std::vector<int64_t>&, const LoraPair*);

Result run(Linear linear, const at::Tensor& x, const FrozenWeight& w, const std::vector<int64_t>& rows,
           const at::Tensor& a, const at::Tensor& b, const at::Tensor& dy) {
  const at::Tensor input = x.detach().clone().requires_grad_();
  LoraPair lora{a, b, 1.5, at::zeros_like(a), at::zeros_like(b)};  // fp32
  const at::Tensor y = linear(input, w, rows, &lora);
  const at::Tensor dx = torch::autograd::grad({y}, {input}, {dy}).front();
  return {y.detach(), dx, lora.a_grad, lora.b_grad};
}

// Within a few roundings to bf16 of values of this size.
void expect_within_rounding(const at::Tensor& found, const at::Tensor& wanted) {
  ASSERT_EQ(found.sizes(), wanted.sizes());
  const at::Tensor difference = (found.to(at::kDouble) - wanted.to(at::kDouble)).abs();
  EXPECT_LT(difference.max().item<double>(), 0.02 * (1 + wanted.abs().max().item<double>()));
  EXPECT_LT(difference.mean().item<double>(), 0.002 * (1 + wanted.abs().to(at::kDouble).mean().item<double>()));
}

void expect_same(const FrozenWeight& w, const std::vector<int64_t>& rows, int64_t r) {
  const int64_t E = static_cast<int64_t>(rows.size()), R = std::accumulate(rows.begin(), rows.end(), int64_t{0});
  const at::Tensor x = random_bf16({R, kIn}), dy = random_bf16({R, kOut});
  const at::Tensor a = random_bf16({E, r, kIn}).to(at::kFloat), b = random_bf16({E, kOut, r}).to(at::kFloat);
  const Result found = run(grouped_mm_linear, x, w, rows, a, b, dy), wanted = run(grouped_linear, x, w, rows, a, b, dy);
  expect_within_rounding(found.y, wanted.y);
  expect_within_rounding(found.dx, wanted.dx);
  expect_within_rounding(found.a_grad, wanted.a_grad);
  expect_within_rounding(found.b_grad, wanted.b_grad);
  for (int64_t e = 0; e < E; ++e) {
    if (rows[e] > 0) continue;
    EXPECT_EQ(found.a_grad[e].abs().max().item<double>(), 0) << "of an expert without rows";
    EXPECT_EQ(found.b_grad[e].abs().max().item<double>(), 0) << "of an expert without rows";
  }
}

TEST(GroupedMm, EqualsTheLoopOverExperts) {
  for (const int64_t r : {1, 4, 8, 12}) {
    expect_same(random_bf16({4, kOut, kIn}), {3, 0, 5, 1}, r);
    expect_same(random_bf16({4, kOut, kIn}), {0, 0, 17, 0}, r);
    expect_same(random_bf16({3, kOut, kIn}), {1, 1, 1}, r);
  }
}

TEST(GroupedMm, NoRowsAtAll) {
  const at::Tensor w = random_bf16({2, kOut, kIn}), a = to_test_device(at::zeros({2, 4, kIn})),
                   b = to_test_device(at::zeros({2, kOut, 4}));
  const Result result = run(grouped_mm_linear, random_bf16({0, kIn}), w, {0, 0}, a, b, random_bf16({0, kOut}));
  EXPECT_EQ(result.y.sizes(), (std::vector<int64_t>{0, kOut}));
  EXPECT_EQ(result.dx.sizes(), (std::vector<int64_t>{0, kIn}));
  EXPECT_EQ(result.a_grad.abs().max().item<double>(), 0);
}

TEST(GroupedMm, QuantisedWeights) {
  const at::Tensor codes = to_test_device(at::randint(0, 64, {4, kOut, kIn}, at::kByte).view(at::kFloat8_e4m3fn));
  const at::Tensor scale =
      to_test_device(at::randint(120, 126, {4, kOut / 8, kIn / 8}, at::kByte).view(at::kFloat8_e8m0fnu));
  expect_same(FrozenWeight(codes, scale, {DType::kF8E4M3, DType::kF8E8M0, 8, 8}), {2, 6, 0, 3}, 8);
  // Blocks of 16 × 16 of two matrices per expert, cut off at 12 rows and 40 columns.
  const at::Tensor factors = to_test_device(at::rand({4, 2, 3}).add_(0.1).mul_(0.1).to(at::kBFloat16));
  expect_same(FrozenWeight(codes, factors, {DType::kF8E4M3, DType::kBF16, 16, 16}, 2), {2, 6, 0, 3}, 8);
}

TEST(GroupedMm, FrozenPairGetsNoGradient) {
  const at::Tensor x = random_bf16({5, kIn}).requires_grad_(), w = random_bf16({2, kOut, kIn});
  const LoraPair lora{to_test_device(at::zeros({2, 4, kIn})), to_test_device(at::zeros({2, kOut, 4})), 1.0, {}, {}};
  const at::Tensor y = grouped_mm_linear(x, w, {2, 3}, &lora);
  EXPECT_TRUE(torch::autograd::grad({y}, {x}, {random_bf16({5, kOut})}).front().defined());
}

}  // namespace
}  // namespace moraine
