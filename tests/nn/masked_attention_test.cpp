// Attention with windows and sinks beside the plain formula in autograd.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <functional>

#include "device/test_device.h"
#include "nn/attention.h"

namespace moraine {
namespace {

using testing_support::to_test_device;

struct Inputs {
  at::Tensor q, k, v, sinks;  // fp32, on the host
};

Inputs random_inputs(int64_t tokens) {
  at::manual_seed(3);
  return {at::randn({tokens, 4, 16}) * 2, at::randn({tokens, 2, 16}), at::randn({tokens, 2, 16}), at::randn({4}) * 2};
}

// Each sequence by itself, all scores at once.
at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const std::vector<int64_t>& cu_seqlens, int64_t window, const at::Tensor& sinks) {
  std::vector<at::Tensor> outputs;
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    const int64_t begin = cu_seqlens[s], n = cu_seqlens[s + 1] - begin, heads = q.size(1);
    const auto of = [&](const at::Tensor& x) {
      return x.narrow(0, begin, n).repeat_interleave(heads / x.size(1), 1).transpose(0, 1);
    };
    at::Tensor hidden = at::ones({n, n}, at::kBool).triu(1);
    if (window > 0) hidden = hidden.logical_or(at::ones({n, n}, at::kBool).tril(-window));
    at::Tensor scores = at::matmul(of(q), of(k).transpose(1, 2)) / std::sqrt(static_cast<double>(q.size(2)));
    scores = scores.masked_fill(hidden, -INFINITY);
    if (sinks.defined())
      scores = at::cat({scores, sinks.to(q.scalar_type()).view({heads, 1, 1}).expand({heads, n, 1})}, -1);
    outputs.push_back(at::matmul(scores.softmax(-1).narrow(-1, 0, n), of(v)).transpose(0, 1));
  }
  return at::cat(outputs);
}

// Output and gradients of q, k and v, in fp64 on the host.
template <typename Attend>
std::vector<at::Tensor> run(const Inputs& in, const std::function<at::Tensor(const at::Tensor&)>& prepared,
                            const Attend& attend) {
  std::vector<at::Tensor> inputs;
  for (const at::Tensor& x : {in.q, in.k, in.v}) inputs.push_back(prepared(x).detach().requires_grad_());
  at::Tensor y = attend(inputs[0], inputs[1], inputs[2]);
  at::manual_seed(4);
  std::vector<at::Tensor> results = torch::autograd::grad({y}, inputs, {prepared(at::randn(in.q.sizes()))});
  results.push_back(y.detach());
  for (at::Tensor& x : results) x = x.to(at::kCPU).to(at::kDouble);
  return results;
}

const std::vector<int64_t> kSequences{0, 1, 6, 306, 446};

void expect_plain(int64_t window, bool has_sinks, at::ScalarType dtype, double tolerance) {
  const Inputs in = random_inputs(kSequences.back());
  const at::Tensor sinks = has_sinks ? in.sinks : at::Tensor();
  const AttentionOptions options{window, has_sinks ? to_test_device(in.sinks.to(dtype)) : at::Tensor()};
  const auto found = run(
      in, [&](const at::Tensor& x) { return to_test_device(x.to(dtype)); },
      [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
        return causal_attention(q, k, v, kSequences, nullptr, options);
      });
  const auto wanted = run(
      in, [&](const at::Tensor& x) { return x.to(dtype).to(at::kDouble); },
      [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
        return plain_attention(q, k, v, kSequences, window, has_sinks ? sinks.to(dtype) : sinks);
      });
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_LT((found[i] - wanted[i]).abs().max().item<double>(), tolerance * (1 + wanted[i].abs().max().item<double>()))
        << "window " << window << " sinks " << has_sinks << " of " << i;
}

TEST(AttentionWindows, EqualThePlainFormulaAndItsGradient) {
  for (const int64_t window : {0, 1, 3, 100, 130, 200, 1000})
    for (const bool sinks : {false, true})
      if (window > 0 || sinks) expect_plain(window, sinks, at::kFloat, 1e-5);
}

TEST(AttentionWindows, InBfloat16) {
  for (const int64_t window : {0, 7, 200}) expect_plain(window, true, at::kBFloat16, 3e-2);
}

TEST(AttentionWindows, ACacheContinuesTheSequenceAndForgetsWhatNobodySees) {
  const Inputs in = random_inputs(300);
  const auto part = [](const at::Tensor& x, int64_t begin, int64_t n) { return to_test_device(x.narrow(0, begin, n)); };
  for (const int64_t window : {0, 7, 150}) {
    const AttentionOptions options{window, to_test_device(in.sinks)};
    const at::Tensor whole =
        causal_attention(part(in.q, 0, 300), part(in.k, 0, 300), part(in.v, 0, 300), {0, 300}, nullptr, options);
    KvCache cache;
    std::vector<at::Tensor> pieces;
    for (auto [begin, n] : {std::pair<int64_t, int64_t>{0, 200}, {200, 1}, {201, 2}, {203, 90}, {293, 1}, {294, 6}}) {
      pieces.push_back(
          causal_attention(part(in.q, begin, n), part(in.k, begin, n), part(in.v, begin, n), {0, n}, &cache, options));
      if (window > 0) {
        EXPECT_LE(cache.k_SKD.size(0), window - 1 + n);
      }
    }
    EXPECT_LT((at::cat(pieces) - whole).abs().max().item<double>(), 1e-5) << window;
  }
}

// A token's output depends on what it sees alone, bit for bit.
TEST(AttentionWindows, SequencesDoNotSeeEachOther) {
  const Inputs in = random_inputs(446);
  const AttentionOptions options{20, to_test_device(in.sinks)};
  const auto attend = [&](int64_t begin, int64_t n, const std::vector<int64_t>& sequences) {
    const auto part = [&](const at::Tensor& x) { return to_test_device(x.narrow(0, begin, n)); };
    return causal_attention(part(in.q), part(in.k), part(in.v), sequences, nullptr, options).to(at::kCPU);
  };
  const at::Tensor all = attend(0, 446, kSequences);
  for (const auto [begin, n] : {std::pair<int64_t, int64_t>{0, 1}, {1, 5}, {6, 300}, {306, 140}})
    EXPECT_TRUE(at::equal(all.narrow(0, begin, n), attend(begin, n, {0, n}))) << begin;
}

}  // namespace
}  // namespace moraine
