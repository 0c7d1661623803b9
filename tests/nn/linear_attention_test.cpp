// The parts of linear attention against their definitions: the recurrence token by token, in fp64, with autograd
// through it.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "device/test_device.h"
#include "nn/causal_conv.h"
#include "nn/gated_delta_rule.h"
#include "nn/norm.h"

namespace moraine {
namespace {

using testing_support::test_device;
using testing_support::to_test_device;

// The definitions are in fp64, on the device too.
class InFp64 : public testing::Test {
  testing_support::Fp64Products allowed_;
};
using GatedDeltaRule = InFp64;
using CausalConv = InFp64;
using GatedRmsNorm = InFp64;
using RmsNormZeroCentered = InFp64;

at::Tensor random_fp64(std::vector<int64_t> shape) { return to_test_device(at::randn(shape, at::kDouble)); }

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return a.numel() == 0 ? 0 : ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item<double>();
}

std::vector<at::Tensor> gradients_of(const at::Tensor& output, const std::vector<at::Tensor>& inputs,
                                     const at::Tensor& g) {
  return torch::autograd::grad({output}, inputs, {g}, /*retain_graph=*/true);
}

struct DeltaInput {
  at::Tensor q, k, v, log_decay, beta;
  std::vector<at::Tensor> all() const { return {q, k, v, log_decay, beta}; }
  DeltaInput rows(int64_t begin, int64_t n) const {
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, n); };
    return {part(q), part(k), part(v), part(log_decay), part(beta)};
  }
};

constexpr int64_t kKeyHeads = 2, kValueHeads = 6, kKeyWidth = 5, kValueWidth = 7;

// Decays from nearly none to strong ones.
DeltaInput random_input(int64_t tokens) {
  DeltaInput x{random_fp64({tokens, kKeyHeads, kKeyWidth}), random_fp64({tokens, kKeyHeads, kKeyWidth}),
               random_fp64({tokens, kValueHeads, kValueWidth}),
               to_test_device(at::rand({tokens, kValueHeads}, at::kDouble).pow(3).mul(-4)),
               to_test_device(at::rand({tokens, kValueHeads}, at::kDouble))};
  for (const at::Tensor& leaf : x.all()) leaf.requires_grad_();
  return x;
}

at::Tensor unit(const at::Tensor& x) { return x / (x.square().sum(-1, true) + 1e-6).sqrt(); }

// The definition (transformers' torch_recurrent_gated_delta_rule), for one sequence.
at::Tensor token_by_token(const DeltaInput& in) {
  const int64_t group = kValueHeads / kKeyHeads;
  const at::Tensor q = unit(in.q).repeat_interleave(group, 1) / std::sqrt(static_cast<double>(kKeyWidth));
  const at::Tensor k = unit(in.k).repeat_interleave(group, 1);
  at::Tensor state = at::zeros({kValueHeads, kKeyWidth, kValueWidth}, q.options());
  std::vector<at::Tensor> outputs;
  for (int64_t t = 0; t < q.size(0); ++t) {
    state = state * in.log_decay[t].exp().view({-1, 1, 1});
    const at::Tensor read = at::bmm(k[t].unsqueeze(1), state).squeeze(1);
    state = state + at::bmm(k[t].unsqueeze(2), (in.beta[t].unsqueeze(1) * (in.v[t] - read)).unsqueeze(1));
    outputs.push_back(at::bmm(q[t].unsqueeze(1), state).squeeze(1));
  }
  return at::stack(outputs);
}

at::Tensor chunked(const DeltaInput& in, const DeltaChunks& chunks, at::Tensor* state = nullptr) {
  return gated_delta_rule(in.q, in.k, in.v, in.log_decay, in.beta, chunks, state);
}

// Shorter than a chunk, exactly one, one token more, several; and packed, in an order that is not that of their
// lengths.
TEST_F(GatedDeltaRule, EqualsTheRecurrenceAndItsGradients) {
  for (const std::vector<int64_t>& lengths :
       std::vector<std::vector<int64_t>>{{1}, {9}, {64}, {65}, {200}, {3, 130, 64, 1, 70}}) {
    std::vector<int64_t> cu_seqlens{0};
    for (int64_t length : lengths) cu_seqlens.push_back(cu_seqlens.back() + length);
    const DeltaInput in = random_input(cu_seqlens.back());
    const DeltaChunks chunks = plan_delta_chunks(cu_seqlens, test_device());
    std::vector<at::Tensor> separate;
    for (size_t s = 0; s < lengths.size(); ++s) separate.push_back(token_by_token(in.rows(cu_seqlens[s], lengths[s])));
    const at::Tensor expected = at::cat(separate), found = chunked(in, chunks), g = at::randn_like(expected);
    EXPECT_LT(largest_difference(found, expected), 1e-12) << cu_seqlens.back();
    const auto wanted = gradients_of(expected, in.all(), g), got = gradients_of(found, in.all(), g);
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_LT(largest_difference(got[i], wanted[i]), 1e-10) << cu_seqlens.back() << " " << i;
  }
}

// The same key again and again with beta near 1 and no decay: powers of A would be astronomical here, its inverse is
// not.
TEST_F(GatedDeltaRule, StaysAccurateInFp32WhenKeysRepeat) {
  DeltaInput in = random_input(150);
  at::NoGradGuard no_grad;
  in.k = in.k[0].expand_as(in.k) + 0.01 * in.k;
  in.beta = at::ones_like(in.beta) - 0.01 * in.beta;
  in.log_decay = in.log_decay * 1e-4;
  DeltaInput in32 = in;
  for (at::Tensor* x : {&in32.q, &in32.k, &in32.v, &in32.log_decay, &in32.beta}) *x = x->to(at::kFloat);
  const DeltaChunks chunks = plan_delta_chunks({0, 150}, test_device());
  EXPECT_LT(largest_difference(chunked(in32, chunks).to(at::kDouble), token_by_token(in)), 1e-5);
}

// CUDA's running sums are refused where the same bits are wanted each time (train.deterministic).
TEST_F(GatedDeltaRule, OnADeviceWithTheSameBitsEachTime) {
  const c10::Device device = test_device();
  if (device.type() != c10::kPrivateUse1) GTEST_SKIP() << "on the test device";
  const auto run = [](c10::Device where, bool deterministic) {
    at::manual_seed(3);
    const DeltaInput host = random_input(70);
    std::vector<at::Tensor> inputs;
    for (const at::Tensor& x : host.all()) inputs.push_back(x.detach().to(at::kFloat).to(where).requires_grad_());
    at::globalContext().setDeterministicAlgorithms(deterministic, /*warn_only=*/false);
    const DeltaChunks chunks = plan_delta_chunks({0, 70}, where);
    const at::Tensor y = gated_delta_rule(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], chunks, nullptr);
    std::vector<at::Tensor> results = gradients_of(y, inputs, at::ones_like(y));
    at::globalContext().setDeterministicAlgorithms(false, false);
    results.push_back(y.detach());
    for (at::Tensor& x : results) x = x.cpu();
    return results;
  };
  const auto wanted = run(c10::kCPU, false);
  for (const bool deterministic : {false, true}) {
    const auto found = run(device, deterministic);
    for (size_t i = 0; i < found.size(); ++i) EXPECT_LT(largest_difference(found[i], wanted[i]), 1e-5);
  }
}

// A prompt and then tokens one by one, as generate runs it.
TEST_F(GatedDeltaRule, StateContinuesTheSequence) {
  at::NoGradGuard no_grad;
  const DeltaInput in = random_input(90);
  at::Tensor state;
  std::vector<at::Tensor> pieces;
  for (auto [begin, n] : std::vector<std::pair<int64_t, int64_t>>{{0, 70}, {70, 1}, {71, 1}, {72, 17}, {89, 1}})
    pieces.push_back(chunked(in.rows(begin, n), plan_delta_chunks({0, n}, test_device()), &state));
  EXPECT_LT(largest_difference(at::cat(pieces), token_by_token(in)), 1e-12);
}

// What fills a sequence up comes after it, so it changes no output before it and takes no gradient there.
TEST_F(GatedDeltaRule, LaterTokensDoNotReachEarlierOnes) {
  const DeltaInput in = random_input(80), other = random_input(80);
  const DeltaChunks chunks = plan_delta_chunks({0, 80}, test_device()),
                    first = plan_delta_chunks({0, 70}, test_device());
  const at::Tensor alone = chunked(in.rows(0, 70), first), g = at::randn_like(alone);
  DeltaInput filled;
  filled.q = at::cat({in.q.narrow(0, 0, 70), other.q.narrow(0, 70, 10)});
  filled.k = at::cat({in.k.narrow(0, 0, 70), other.k.narrow(0, 70, 10)});
  filled.v = at::cat({in.v.narrow(0, 0, 70), other.v.narrow(0, 70, 10)});
  filled.log_decay = at::cat({in.log_decay.narrow(0, 0, 70), other.log_decay.narrow(0, 70, 10)});
  filled.beta = at::cat({in.beta.narrow(0, 0, 70), other.beta.narrow(0, 70, 10)});
  const at::Tensor together = chunked(filled, chunks);
  EXPECT_LT(largest_difference(together.narrow(0, 0, 70), alone), 1e-13);
  const auto wanted = gradients_of(alone, in.all(), g);
  const auto got =
      gradients_of(together, in.all(), at::cat({g, at::zeros({10, kValueHeads, kValueWidth}, g.options())}));
  for (size_t i = 0; i < got.size(); ++i) EXPECT_LT(largest_difference(got[i], wanted[i]), 1e-12);
}

TEST_F(GatedDeltaRule, NoTokens) {
  const DeltaInput in = random_input(0);
  EXPECT_EQ(chunked(in, plan_delta_chunks({0}, test_device())).sizes(),
            (std::vector<int64_t>{0, kValueHeads, kValueWidth}));
}

at::Tensor convolved(const at::Tensor& x_TC, const at::Tensor& weight_CW) {
  const at::Tensor x = x_TC.t().unsqueeze(0);
  const int64_t channels = weight_CW.size(0), before = weight_CW.size(1) - 1;
  const at::Tensor y =
      at::conv1d(at::constant_pad_nd(x, {before, 0}), weight_CW.unsqueeze(1), {}, 1, at::IntArrayRef{0}, 1, channels);
  return at::silu(y).squeeze(0).t();
}

TEST_F(CausalConv, EqualsConv1dWithinEachSequence) {
  const at::Tensor x = random_fp64({20, 6}).requires_grad_(), weight = random_fp64({6, 4});
  const std::vector<int64_t> cu_seqlens{0, 2, 3, 13, 20};
  std::vector<at::Tensor> separate;
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s)
    separate.push_back(convolved(x.narrow(0, cu_seqlens[s], cu_seqlens[s + 1] - cu_seqlens[s]), weight));
  const at::Tensor expected = at::cat(separate), found = causal_conv_silu(x, weight, cu_seqlens, nullptr);
  EXPECT_LT(largest_difference(found, expected), 1e-13);
  const at::Tensor g = at::randn_like(expected);
  EXPECT_LT(largest_difference(gradients_of(found, {x}, g)[0], gradients_of(expected, {x}, g)[0]), 1e-13);
}

TEST_F(CausalConv, TailContinuesTheSequence) {
  at::NoGradGuard no_grad;
  const at::Tensor x = random_fp64({12, 6}), weight = random_fp64({6, 4});
  at::Tensor tail;
  std::vector<at::Tensor> pieces;
  for (auto [begin, n] : std::vector<std::pair<int64_t, int64_t>>{{0, 2}, {2, 1}, {3, 6}, {9, 1}, {10, 2}})
    pieces.push_back(causal_conv_silu(x.narrow(0, begin, n), weight, {0, n}, &tail));
  EXPECT_LT(largest_difference(at::cat(pieces), convolved(x, weight)), 1e-13);
}

TEST_F(CausalConv, NoTokens) {
  EXPECT_EQ(causal_conv_silu(random_fp64({0, 6}), random_fp64({6, 4}), {0}, nullptr).sizes(),
            (std::vector<int64_t>{0, 6}));
}

TEST_F(GatedRmsNorm, ForwardAndGradients) {
  const at::Tensor x = random_fp64({5, 3, 16}).to(at::kFloat).requires_grad_(),
                   gate = random_fp64({5, 3, 16}).to(at::kFloat).requires_grad_(),
                   weight = random_fp64({16}).to(at::kFloat);
  const at::Tensor expected = x * (x.square().mean(-1, true) + 1e-6).rsqrt() * weight * at::silu(gate);
  const at::Tensor found = gated_rms_norm(x, gate, weight, 1e-6), g = at::randn_like(expected);
  EXPECT_LT(largest_difference(found, expected), 1e-6);
  const auto wanted = gradients_of(expected, {x, gate}, g), got = gradients_of(found, {x, gate}, g);
  for (int i = 0; i < 2; ++i) EXPECT_LT(largest_difference(got[i], wanted[i]), 1e-5);
}

TEST_F(RmsNormZeroCentered, ForwardAndGradient) {
  const at::Tensor x = random_fp64({5, 3, 16}).to(at::kFloat).requires_grad_(),
                   weight = random_fp64({16}).to(at::kFloat);
  const at::Tensor expected = x * (x.square().mean(-1, true) + 1e-6).rsqrt() * (1 + weight);
  const at::Tensor found = rms_norm_zero_centered(x, weight, 1e-6), g = at::randn_like(expected);
  EXPECT_LT(largest_difference(found, expected), 1e-6);
  EXPECT_LT(largest_difference(gradients_of(found, {x}, g)[0], gradients_of(expected, {x}, g)[0]), 1e-5);
}

}  // namespace
}  // namespace moraine
