// Each layer with a hand-written backward pass, against the same formula in plain autograd.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "device/test_device.h"
#include "nn/attention.h"
#include "nn/embedding.h"
#include "nn/grouped_linear.h"
#include "nn/loss.h"
#include "nn/norm.h"
#include "nn/outer_products.h"
#include "nn/rope.h"
#include "nn/router.h"
#include "nn/swiglu.h"

namespace moraine {
namespace {

using testing_support::to_test_device;
const c10::Device kDevice = testing_support::test_device();

at::Tensor random(std::vector<int64_t> shape) { return to_test_device(at::randn(shape, at::kDouble).to(at::kFloat)); }
at::Tensor leaf(std::vector<int64_t> shape) { return random(std::move(shape)).requires_grad_(); }

std::vector<at::Tensor> gradients(const at::Tensor& output, const std::vector<at::Tensor>& inputs,
                                  const at::Tensor& g) {
  return torch::autograd::grad({output}, inputs, {g}, false, false, true);
}

void expect_close(const at::Tensor& a, const at::Tensor& b, double tolerance = 1e-5) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_LT((a - b).abs().max().item<double>(), tolerance * (1 + b.abs().max().item<double>()));
}

TEST(RmsNorm, ForwardAndGradient) {
  at::Tensor x = leaf({5, 3, 16}), weight = random({16}), g = random({5, 3, 16});
  at::Tensor expected = x * (x.square().mean(-1, true) + 1e-6).rsqrt() * weight;
  at::Tensor y = rms_norm(x, weight, 1e-6);
  expect_close(y, expected);
  expect_close(gradients(y, {x}, g)[0], gradients(expected, {x}, g)[0]);
}

// In bf16 it shows that the product is rounded once.
TEST(RmsNorm, RoundedOnce) {
  at::Tensor x = leaf({5, 16}), weight = random({16}), g = random({5, 16});
  at::Tensor expected = x * (x.square().mean(-1, true) + 1e-6).rsqrt() * weight;
  at::Tensor y = rms_norm_rounded_once(x, weight, 1e-6);
  expect_close(y, expected);
  expect_close(gradients(y, {x}, g)[0], gradients(expected, {x}, g)[0]);
  const at::Tensor half = x.detach().to(at::kBFloat16),
                   exact = rms_norm_rounded_once(half.to(at::kFloat), weight, 1e-6);
  EXPECT_TRUE(at::equal(rms_norm_rounded_once(half, weight, 1e-6), exact.to(at::kBFloat16)));
}

TEST(SwiGlu, ClampedAndInterleaved) {
  at::Tensor x = (random({7, 42}) * 6).requires_grad_(), g = random({7, 21});
  const at::Tensor pairs = x.view({7, 21, 2}), gate = pairs.select(2, 0).clamp_max(7.0),
                   up = pairs.select(2, 1).clamp(-7.0, 7.0);
  at::Tensor expected = (up + 1) * (gate * (gate * 1.702).sigmoid());
  at::Tensor y = clamped_swiglu(x, 7.0);
  expect_close(y, expected);
  expect_close(gradients(y, {x}, g)[0], gradients(expected, {x}, g)[0]);
}

TEST(SwiGlu, ForwardAndGradient) {
  at::Tensor x = leaf({7, 24}), g = random({7, 12});
  at::Tensor expected = at::silu(x.narrow(1, 0, 12)) * x.narrow(1, 12, 12);
  at::Tensor y = swiglu(x);
  expect_close(y, expected);
  expect_close(gradients(y, {x}, g)[0], gradients(expected, {x}, g)[0]);
}

// A pair whose factors are leaves, for the formula in plain autograd, with zero gradients for the layer to add to.
LoraPair trained_pair(std::vector<int64_t> a_shape, std::vector<int64_t> b_shape, double scaling) {
  return {leaf(a_shape), leaf(b_shape), scaling, to_test_device(at::zeros(a_shape, gradient_dtype(kDevice))),
          to_test_device(at::zeros(b_shape, gradient_dtype(kDevice)))};
}

TEST(GroupedLinear, EqualsALoopOverExpertsWithFoldedAdapters) {
  const std::vector<int64_t> rows{3, 0, 5, 1};
  at::Tensor x = leaf({9, 8}), w = random({4, 6, 8}), g = random({9, 6});
  LoraPair lora = trained_pair({4, 2, 8}, {4, 6, 2}, 1.5);
  at::Tensor folded = w + 1.5 * at::bmm(lora.b, lora.a);
  std::vector<at::Tensor> outputs;
  int64_t row = 0;
  for (int64_t e = 0; e < 4; ++e) {
    outputs.push_back(at::mm(x.narrow(0, row, rows[e]), folded[e].t()));
    row += rows[e];
  }
  at::Tensor expected = at::cat(outputs), y = grouped_linear(x, w, rows, &lora);
  expect_close(y, expected);
  const auto wanted = gradients(expected, {x, lora.a, lora.b}, g);
  expect_close(gradients(y, {x}, g)[0], wanted[0]);
  expect_close(lora.a_grad, wanted[1]);
  expect_close(lora.b_grad, wanted[2]);
  EXPECT_EQ(lora.a_grad[1].abs().max().item<double>(), 0) << "of the expert without rows";
  // A second pass adds to the first.
  gradients(grouped_linear(x, w, rows, &lora), {x}, g);
  expect_close(lora.b_grad, 2 * wanted[2]);
}

// One A, or one B, for all experts.
TEST(GroupedLinear, SharedFactorsGetTheSumOverAllExperts) {
  const std::vector<int64_t> rows{3, 0, 5, 1};
  for (const auto& [of_a, of_b] : {std::pair<int64_t, int64_t>{1, 4}, {4, 1}}) {
    at::Tensor x = leaf({9, 8}), w = random({4, 6, 8}), g = random({9, 6});
    LoraPair lora = trained_pair({of_a, 2, 8}, {of_b, 6, 2}, 1.5);
    at::Tensor folded = w + 1.5 * at::matmul(lora.b, lora.a);
    std::vector<at::Tensor> outputs;
    int64_t row = 0;
    for (int64_t e = 0; e < 4; row += rows[e++]) outputs.push_back(at::mm(x.narrow(0, row, rows[e]), folded[e].t()));
    at::Tensor expected = at::cat(outputs), y = grouped_linear(x, w, rows, &lora);
    expect_close(y, expected);
    const auto wanted = gradients(expected, {x, lora.a, lora.b}, g);
    expect_close(gradients(y, {x}, g)[0], wanted[0]);
    expect_close(lora.a_grad, wanted[1]);
    expect_close(lora.b_grad, wanted[2]);
  }
}

TEST(GroupedLinear, NoRowsAtAll) {
  at::Tensor x = leaf({0, 8});
  LoraPair lora = trained_pair({2, 2, 8}, {2, 6, 2}, 1.0);
  at::Tensor y = grouped_linear(x, random({2, 6, 8}), {0, 0}, &lora);
  EXPECT_EQ(y.sizes(), (std::vector<int64_t>{0, 6}));
  EXPECT_EQ(gradients(y, {x}, to_test_device(at::zeros({0, 6})))[0].size(0), 0);
  EXPECT_EQ(lora.a_grad.abs().sum().item<double>() + lora.b_grad.abs().sum().item<double>(), 0);
}

TEST(LoraLinear, EqualsTheFoldedWeight) {
  at::Tensor x = leaf({1100, 8}), w = random({6, 8}), g = random({1100, 6});  // more rows than are summed at a time
  LoraPair lora = trained_pair({2, 8}, {6, 2}, 2.0);
  at::Tensor expected = at::mm(x, (w + 2.0 * at::mm(lora.b, lora.a)).t()), y = lora_linear(x, w, &lora);
  expect_close(y, expected);
  const auto wanted = gradients(expected, {x, lora.a, lora.b}, g);
  expect_close(gradients(y, {x}, g)[0], wanted[0]);
  expect_close(lora.a_grad, wanted[1]);
  expect_close(lora.b_grad, wanted[2]);
}

TEST(TokenEmbedding, EqualsTheFoldedWeight) {
  at::Tensor weight = random({12, 6}), ids = to_test_device(at::randint(0, 5, {40}, at::kLong)), g = random({40, 6});
  LoraPair lora = trained_pair({3, 12}, {6, 3}, 2.0);
  at::Tensor expected = at::index_select(weight + 2.0 * at::mm(lora.b, lora.a).t(), 0, ids);
  at::Tensor y = token_embedding(weight, ids, &lora);
  expect_close(y, expected);
  const auto wanted = gradients(expected, {lora.a, lora.b}, g);
  torch::autograd::backward({y}, {g});
  expect_close(lora.a_grad, wanted[0]);
  expect_close(lora.b_grad, wanted[1]);
  EXPECT_TRUE(at::equal(token_embedding(weight, ids, nullptr), weight.index_select(0, ids)));
}

// So their order, which meshes change, does not show in fp32.
TEST(LoraLinear, GradientsAreSummedInFp64) {
  if (gradient_dtype(kDevice) != at::kDouble) GTEST_SKIP() << "in fp32 on " << kDevice;
  const at::Tensor x = random({1100, 40}), g = random({1100, 24}), w = random({24, 40});
  const LoraPair lora = trained_pair({4, 40}, {24, 4}, 2.0);
  // Each row's products are the same wherever it stands.
  const auto of_rows = [&](const at::Tensor& order) {
    LoraPair pair = lora;
    pair.a_grad = at::zeros_like(lora.a_grad);
    pair.b_grad = at::zeros_like(lora.b_grad);
    at::Tensor rows = x.index_select(0, order).requires_grad_();
    gradients(lora_linear(rows, w, &pair), {rows}, g.index_select(0, order));
    return pair;
  };
  const at::Tensor order = at::arange(1100, at::TensorOptions(at::kLong).device(kDevice));
  const LoraPair forward = of_rows(order), backward = of_rows(order.flip(0));
  expect_close(backward.a_grad, forward.a_grad, 1e-14);
  expect_close(backward.b_grad, forward.b_grad, 1e-14);
  const at::Tensor low = at::mm(x, lora.a.t()).to(at::kDouble), dlow = at::mm(g, lora.b).to(at::kDouble) * 2.0;
  expect_close(forward.a_grad, at::mm(dlow.t(), x.to(at::kDouble)), 1e-4);
  expect_close(forward.b_grad, 2.0 * at::mm(g.to(at::kDouble).t(), low), 1e-4);
}

TEST(OuterProducts, AnyShape) {
  if (gradient_dtype(kDevice) != at::kDouble) GTEST_SKIP() << "in fp32 on " << kDevice;
  for (const auto& [R, P, Q] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {3, 8, 70}, {130, 200, 17}, {64, 64, 33}, {5, 40, 40}, {0, 4, 9}}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      at::Tensor left = random({R, P}).to(dtype), right = random({R, Q}).to(at::kFloat),
                 start = at::randn({P, Q}, at::kDouble);
      at::Tensor sum = start.clone();
      add_outer_products(sum, left, right, 0.7);
      expect_close(sum, start + 0.7 * at::mm(left.to(at::kDouble).t(), right.to(at::kDouble)), 1e-13);
    }
  }
}

TEST(Attention, SequencesDoNotSeeEachOther) {
  at::Tensor q = random({7, 4, 8}), k = random({7, 2, 8}), v = random({7, 2, 8});
  at::Tensor both = causal_attention(q, k, v, {0, 3, 7}, nullptr);
  auto part = [&](int64_t begin, int64_t n) {
    return causal_attention(q.narrow(0, begin, n), k.narrow(0, begin, n), v.narrow(0, begin, n), {0, n}, nullptr);
  };
  expect_close(both, at::cat({part(0, 3), part(3, 4)}));
}

// GPUs' kernels read each head of k and v for all its queries, without copies of them.
TEST(Attention, GroupedQueriesOnADeviceRepeatNothing) {
  const c10::Device device = testing_support::test_device();
  if (device.type() != c10::kPrivateUse1) GTEST_SKIP() << "on the test device";
  const auto run = [&](c10::Device where, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    std::vector<at::Tensor> inputs;
    for (const at::Tensor& x : {q, k, v}) inputs.push_back(x.detach().to(where).requires_grad_());
    const at::Tensor y = causal_attention(inputs[0], inputs[1], inputs[2], {0, 5, 12}, nullptr);
    std::vector<at::Tensor> results = torch::autograd::grad({y}, inputs, {at::ones_like(y)});
    results.push_back(y.detach());
    for (at::Tensor& x : results) x = x.to(at::kCPU).to(at::kDouble);
    return results;
  };
  const at::Tensor q = at::randn({12, 8, 16}).to(at::kBFloat16), k = at::randn({12, 2, 16}).to(at::kBFloat16),
                   v = at::randn({12, 2, 16}).to(at::kBFloat16);
  const testing_support::DeviceLogScope log;
  const auto found = run(device, q, k, v), wanted = run(c10::kCPU, q, k, v);
  for (size_t i = 0; i < found.size(); ++i) EXPECT_LT((found[i] - wanted[i]).abs().max().item<double>(), 0.1) << i;
  for (const auto& [name, count] : log.log().operators) {
    EXPECT_FALSE(name.starts_with("aten::repeat_interleave")) << name;
    EXPECT_EQ(count.waits, name.ends_with("host") ? count.launches : 0) << name;
  }
}

TEST(Attention, CacheContinuesTheSequence) {
  at::Tensor q = random({6, 4, 8}), k = random({6, 2, 8}), v = random({6, 2, 8});
  at::Tensor whole = causal_attention(q, k, v, {0, 6}, nullptr);
  KvCache cache;
  std::vector<at::Tensor> pieces;
  for (auto [begin, n] : {std::pair<int64_t, int64_t>{0, 3}, {3, 1}, {4, 2}})
    pieces.push_back(
        causal_attention(q.narrow(0, begin, n), k.narrow(0, begin, n), v.narrow(0, begin, n), {0, n}, &cache));
  expect_close(at::cat(pieces), whole);
}

// Latent attention's: values narrower than queries and keys, and a scale of its own.
TEST(Attention, NarrowValuesAndAScale) {
  const double scale = 0.9;
  at::Tensor q = random({6, 3, 8}), k = random({6, 3, 8}), v = random({6, 3, 5});
  for (at::Tensor* x : {&q, &k, &v}) x->requires_grad_();
  const auto by_head = [](const at::Tensor& x_TNW) { return x_TNW.transpose(0, 1); };
  const at::Tensor later = at::ones({6, 6}, q.options().dtype(at::kBool).requires_grad(false)).triu(1);
  const at::Tensor scores = at::matmul(by_head(q), by_head(k).transpose(1, 2)) * scale;
  const at::Tensor probabilities = scores.masked_fill(later, -1e30).softmax(-1);
  const at::Tensor wanted = at::matmul(probabilities, by_head(v)).transpose(0, 1);
  const at::Tensor found = causal_attention(q, k, v, {0, 6}, nullptr, {.scale = scale});
  ASSERT_EQ(found.sizes(), v.sizes());
  expect_close(found, wanted);
  const at::Tensor direction = random({6, 3, 5});
  const auto found_grads = torch::autograd::grad({found}, {q, k, v}, {direction}),
             wanted_grads = torch::autograd::grad({wanted}, {q, k, v}, {direction});
  for (size_t i = 0; i < 3; ++i) expect_close(found_grads[i], wanted_grads[i]);

  at::NoGradGuard no_grad;
  KvCache cache;
  std::vector<at::Tensor> pieces;
  for (auto [begin, n] : {std::pair<int64_t, int64_t>{0, 3}, {3, 1}, {4, 2}})
    pieces.push_back(causal_attention(q.narrow(0, begin, n), k.narrow(0, begin, n), v.narrow(0, begin, n), {0, n},
                                      &cache, {.scale = scale}));
  expect_close(at::cat(pieces), wanted);
}

TEST(Attention, NoTokens) {
  EXPECT_EQ(causal_attention(random({0, 4, 8}), random({0, 2, 8}), random({0, 2, 8}), {0}, nullptr).numel(), 0);
  EXPECT_EQ(causal_attention(random({0, 4, 8}), random({0, 4, 8}), random({0, 4, 5}), {0}, nullptr).size(2), 5);
}

TEST(Rope, RotatesPairsByPositionTimesFrequency) {
  const at::Tensor positions = to_test_device(at::tensor({0, 3}, at::kLong));
  const RopeTable table = make_rope_table(positions, {.rope_theta = 100, .dim = 4}, at::kFloat);
  at::Tensor x = to_test_device(at::tensor({1.0f, 0.0f, 0.0f, 2.0f})).view({1, 1, 4}).expand({2, 1, 4});
  at::Tensor y = apply_rope(x, table);
  expect_close(y[0][0], x[0][0]);
  // frequencies 1 and 0.1; pairs are (0, 2) and (1, 3)
  const float expected[] = {std::cos(3.0f), -2 * std::sin(0.3f), std::sin(3.0f), 2 * std::cos(0.3f)};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(y[1][0][i].item<float>(), expected[i], 1e-5);
}

TEST(Rope, ANarrowTableTurnsTheFirstDimsOnly) {
  const RopeTable table =
      make_rope_table(to_test_device(at::tensor({0, 3, 5}, at::kLong)), {.rope_theta = 100, .dim = 4}, at::kFloat);
  at::Tensor x = random({3, 2, 10}), y = apply_rope(x, table);
  expect_close(y.narrow(2, 0, 4), apply_rope(x.narrow(2, 0, 4), table));
  expect_close(y.narrow(2, 4, 6), x.narrow(2, 4, 6));
}

TEST(Router, ChoosesTopKSortedByExpertAndRepeatsAChoice) {
  at::Tensor logits = to_test_device(at::tensor({0.1f, 2.0f, -1.0f, 1.0f}).view({1, 4}));
  const Routing routing = route(logits, {.num_experts = 4, .experts_per_token = 2}, {}, {});
  EXPECT_TRUE(at::equal(routing.indices_TK.cpu(), at::tensor({1, 3}, at::kLong).view({1, 2})));
  EXPECT_NEAR(routing.weights_TK.sum().item<float>(), 1.0, 1e-6);
  const Routing forced = route(logits, {.num_experts = 4, .experts_per_token = 2, .normalised = false}, {},
                               to_test_device(at::tensor({0, 2}, at::kLong).view({1, 2})));
  expect_close(forced.weights_TK,
               at::softmax(logits, -1).index_select(1, to_test_device(at::tensor({0, 2}, at::kLong))));
}

TEST(Loss, ChunksEqualTheWholeAndItsGradient) {
  at::Tensor hidden = leaf({11, 8}), head = random({20, 8});
  at::Tensor targets = to_test_device(at::randint(0, 20, {11}, at::kLong));
  targets[2] = -100;
  targets[10] = -100;
  at::Tensor expected = at::cross_entropy_loss(at::mm(hidden, head.t()), targets, {}, at::Reduction::Sum, -100);
  at::Tensor wanted = torch::autograd::grad({expected * 0.5}, {hidden})[0];
  for (int64_t chunk_rows : {1, 4, 256}) {
    const LossResult loss =
        chunked_cross_entropy(hidden.detach(), head, targets, WithGradient::kYes, 0.5, nullptr, chunk_rows);
    EXPECT_NEAR(loss.loss_sum, expected.item<double>(), 1e-4);
    EXPECT_EQ(loss.trained_tokens, 9);
    expect_close(loss.grad_hidden_TD, wanted);
    EXPECT_EQ(loss.token_loss_T[2].item<float>(), 0);
  }
}

TEST(Loss, WithAnAdapterOfTheHead) {
  at::Tensor hidden = leaf({11, 8}), head = random({20, 8});
  at::Tensor targets = to_test_device(at::randint(0, 20, {11}, at::kLong));
  targets[4] = -100;
  for (int64_t chunk_rows : {3, 256}) {
    LoraPair lora = trained_pair({2, 8}, {20, 2}, 1.5);
    at::Tensor logits = at::mm(hidden, (head + 1.5 * at::mm(lora.b, lora.a)).t());
    at::Tensor expected = at::cross_entropy_loss(logits, targets, {}, at::Reduction::Sum, -100);
    const auto wanted = torch::autograd::grad({expected * 0.5}, {hidden, lora.a, lora.b});
    const LoraPair detached{lora.a.detach(), lora.b.detach(), lora.scaling, lora.a_grad, lora.b_grad};
    const LossResult loss =
        chunked_cross_entropy(hidden.detach(), head, targets, WithGradient::kYes, 0.5, &detached, chunk_rows);
    EXPECT_NEAR(loss.loss_sum, expected.item<double>(), 1e-4);
    expect_close(loss.grad_hidden_TD, wanted[0]);
    expect_close(lora.a_grad, wanted[1]);
    expect_close(lora.b_grad, wanted[2]);
    expect_close(head_logits(hidden.detach(), head, &detached), logits.detach());
  }
}

}  // namespace
}  // namespace moraine
