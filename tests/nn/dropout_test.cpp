// Which elements dropout leaves out, and that the adapter and its gradients see the same ones.
#include "nn/dropout.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "device/test_device.h"
#include "nn/grouped_linear.h"

namespace moraine {
namespace {

using testing_support::test_device;
using testing_support::to_test_device;

LoraDropout dropout(double rate, int64_t tokens, int64_t step = 0) {
  std::vector<int64_t> keys;
  for (int64_t token = 0; token < tokens; ++token)
    keys.push_back(dropout_token_key(dropout_sequence_key(3, step, 1), token));
  return {rate, dropout_layer_key("model.layers.0.self_attn.q_proj"), to_test_device(at::tensor(keys))};
}

TEST(Dropout, LeavesOutItsRateAndKeepsTheMean) {
  for (const double rate : {0.05, 0.5}) {
    const at::Tensor factors = dropout_factors_TI(dropout(rate, 400), 301);
    const double left_out = (factors == 0).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(left_out, rate, 5 * std::sqrt(rate * (1 - rate) / static_cast<double>(factors.numel())));
    EXPECT_EQ(factors.max().item<float>(), 1 / (1 - static_cast<float>(rate)));
    // Of each row and column too: neither tokens nor features share their draws.
    for (int64_t dim : {0, 1}) {
      const at::Tensor means = (factors == 0).to(at::kDouble).mean(dim);
      const double spread = std::sqrt(rate * (1 - rate) / static_cast<double>(factors.size(dim)));
      EXPECT_LT((means - rate).abs().max().item<double>(), 5 * spread) << dim;
      EXPECT_NEAR(means.std().item<double>(), spread, 0.3 * spread) << dim;
    }
    // Nor do neighbours.
    const at::Tensor centred = (factors == 0).to(at::kDouble) - rate;
    for (int64_t dim : {0, 1}) {
      const int64_t n = factors.size(dim) - 1;
      const double product = (centred.narrow(dim, 0, n) * centred.narrow(dim, 1, n)).mean().item<double>();
      EXPECT_LT(std::abs(product), 5 * rate * (1 - rate) / std::sqrt(static_cast<double>(factors.numel())));
    }
  }
}

TEST(Dropout, IsAFunctionOfLayerStepAndToken) {
  const LoraDropout one = dropout(0.5, 8), next_step = dropout(0.5, 8, 1);
  LoraDropout other_layer = one;
  other_layer.layer_key = dropout_layer_key("model.layers.0.self_attn.k_proj");
  const at::Tensor factors = dropout_factors_TI(one, 64);
  EXPECT_TRUE(at::equal(factors, dropout_factors_TI(one, 64)));
  EXPECT_TRUE(at::equal(factors.narrow(1, 0, 63), dropout_factors_TI(one, 63)));
  EXPECT_FALSE(at::equal(factors, dropout_factors_TI(next_step, 64)));
  EXPECT_FALSE(at::equal(factors, dropout_factors_TI(other_layer, 64)));
  // A token's choices do not show which others share its batch.
  const LoraDropout some{0.5, one.layer_key, one.token_keys_T.narrow(0, 5, 2)};
  EXPECT_TRUE(at::equal(factors.narrow(0, 5, 2), dropout_factors_TI(some, 64)));
}

TEST(Dropout, ByTensorOperationsTheSame) {
  for (const int64_t width : {1, 7, 64}) {
    const LoraDropout d = dropout(0.3, 20);
    LoraDropout on_host = d;
    on_host.token_keys_T = d.token_keys_T.cpu();
    EXPECT_TRUE(at::equal(dropout_factors_TI(on_host, width), dropout_factors_by_tensors_TI(d, width).cpu()));
  }
  EXPECT_EQ(dropout_factors_TI(dropout(0.3, 0), 4).sizes(), (std::vector<int64_t>{0, 4}));
}

TEST(Dropout, OfALinearLayersAdapterAndItsGradients) {
  const auto random = [](std::vector<int64_t> shape) { return to_test_device(at::randn(shape)); };
  const auto sums = at::TensorOptions(test_device()).dtype(gradient_dtype(test_device()));
  const at::Tensor x = random({9, 8}).requires_grad_(), w = random({6, 8}), g = random({9, 6});
  const at::Tensor a = random({2, 8}).requires_grad_(), b = random({6, 2}).requires_grad_();
  LoraPair lora{a, b, 1.5, at::zeros({2, 8}, sums), at::zeros({6, 2}, sums), dropout(0.4, 9)};
  const at::Tensor factors = dropout_factors_TI(lora.dropout, 8);
  const at::Tensor expected = at::mm(x, w.t()) + 1.5 * at::mm(at::mm(x * factors, a.t()), b.t());
  const auto wanted = torch::autograd::grad({expected}, {x, a, b}, {g});
  const at::Tensor y = lora_linear(x, w, &lora);
  EXPECT_TRUE(at::allclose(y, expected, 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(torch::autograd::grad({y}, {x}, {g})[0], wanted[0], 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(lora.a_grad.to(at::kFloat), wanted[1], 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(lora.b_grad.to(at::kFloat), wanted[2], 1e-5, 1e-5));
  LoraPair without = lora;
  without.dropout.rate = 0;
  LoraPair plain{a, b, 1.5, {}, {}};
  EXPECT_TRUE(at::equal(lora_linear(x, w, &without), lora_linear(x, w, &plain)));
}

}  // namespace
}  // namespace moraine
