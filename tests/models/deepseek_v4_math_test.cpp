// DeepSeek-V4's parts against the same formulas in plain autograd, on the test_device().
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "device/test_device.h"
#include "models/deepseek_v4/attention.h"
#include "models/deepseek_v4/compressor.h"
#include "models/deepseek_v4/head_norm.h"
#include "models/deepseek_v4/hyper_connection.h"
#include "models/deepseek_v4/indexer.h"
#include "models/deepseek_v4/rope.h"
#include "models/deepseek_v4/router.h"

namespace moraine::deepseek_v4 {
namespace {

using testing_support::to_test_device;

at::Tensor random(std::vector<int64_t> shape) { return to_test_device(at::randn(shape, at::kDouble).to(at::kFloat)); }
at::Tensor leaf(std::vector<int64_t> shape) { return random(std::move(shape)).requires_grad_(); }

void expect_close(const at::Tensor& a, const at::Tensor& b, double tolerance = 1e-5) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_EQ(a.device(), testing_support::test_device());
  EXPECT_LT((a - b).abs().max().item<double>(), tolerance * (1 + b.abs().max().item<double>()));
}

// Outputs agree, and so do the gradients of all inputs.
void expect_same(const at::Tensor& got, const at::Tensor& wanted, const std::vector<at::Tensor>& inputs) {
  expect_close(got, wanted);
  const at::Tensor g = random(got.sizes().vec());
  const auto got_grads = torch::autograd::grad({got}, inputs, {g}, true),
             wanted_grads = torch::autograd::grad({wanted}, inputs, {g}, true);
  for (size_t i = 0; i < inputs.size(); ++i) expect_close(got_grads[i], wanted_grads[i]);
}

TEST(HyperConnection, SinkhornMakesRowsAndColumnsSumToOne) {
  const at::Tensor logits = leaf({5, 4, 4});
  const at::Tensor comb = sinkhorn(logits, 20, 1e-6);
  expect_close(comb.sum(1), to_test_device(at::ones({5, 4})), 1e-4);
  expect_close(comb.sum(2), to_test_device(at::ones({5, 4})), 1e-3);
  at::Tensor expected = at::softmax(logits, -1) + 1e-6;
  expected = expected / (expected.sum(1, true) + 1e-6);
  for (int i = 1; i < 20; ++i) {
    expected = expected / (expected.sum(2, true) + 1e-6);
    expected = expected / (expected.sum(1, true) + 1e-6);
  }
  expect_same(comb, expected, {logits});
}

// A token's bits do not show how many tokens there are: the mixing's exp is of whole vectors.
TEST(HyperConnection, SinkhornOfATokenDoesNotDependOnTheOthers) {
  if (!testing_support::test_device().is_cpu()) GTEST_SKIP() << "bits are promised on the CPU";
  const at::Tensor logits = to_test_device(at::randn({72, 4, 4})), whole = sinkhorn(logits, 20, 1e-6);
  for (const int64_t tokens : {1, 8, 12, 24, 40})
    EXPECT_TRUE(at::equal(sinkhorn(logits.narrow(0, 0, tokens), 20, 1e-6), whole.narrow(0, 0, tokens))) << tokens;
}

TEST(HyperConnection, ReadsAndWritesStreams) {
  const int64_t T = 131, N = 4, D = 24;  // more tokens than a run
  const at::Tensor streams = leaf({T, N, D}), y = leaf({T, D});
  // Of a norm that keeps logits within a few units: where a softmax saturates, fp32's rounding of either side comes
  // near the tolerance.
  const StreamWeights weights{random({24, N * D}) / std::sqrt(N * D), random({24}), random({3})};
  const HyperConnection connection = connect(streams, weights, {1e-6, 1e-6, 3});
  const at::Tensor flat = streams.flatten(1);
  const at::Tensor mix = at::mm(flat * (flat.square().mean(-1, true) + 1e-6).rsqrt(), weights.fn_WD.t());
  const auto part = [&](int64_t begin, int64_t count, int64_t i) {
    return mix.narrow(1, begin, count) * weights.scale[i] + weights.base_W.narrow(0, begin, count);
  };
  const at::Tensor input = ((at::sigmoid(part(0, N, 0)) + 1e-6).unsqueeze(2) * streams).sum(1);
  expect_same(connection.input_TD, input, {streams});
  const at::Tensor post = 2 * at::sigmoid(part(N, N, 1)),
                   comb = sinkhorn(part(2 * N, N * N, 2).view({T, N, N}), 3, 1e-6);
  const at::Tensor written = post.unsqueeze(2) * y.unsqueeze(1) + at::matmul(comb.transpose(1, 2), streams);
  expect_same(write_back(y, streams, connection), written, {streams, y});
}

TEST(HeadNorm, NormsEachHead) {
  const at::Tensor x = leaf({70, 3, 8});
  expect_same(head_norm(x, 1e-6), x * (x.square().mean(-1, true) + 1e-6).rsqrt(), {x});
}

TEST(Rope, TurnsInterleavedPairsOfTheLastDimsAndBack) {
  const RopeSpec rope{.rope_theta = 100, .dim = 4, .yarn = false};
  const Rotation rotation = make_rotation(to_test_device(at::tensor({0, 3}, at::kLong)), rope, at::kFloat);
  const at::Tensor x =
      to_test_device(at::tensor({9.f, 1.f, 0.f, 0.f, 2.f})).view({1, 1, 5}).repeat({2, 1, 1}).requires_grad_();
  const at::Tensor y = rotate(x, rotation);
  expect_close(y[0], x[0]);
  const float expected[] = {9, std::cos(3.f), std::sin(3.f), -2 * std::sin(.3f), 2 * std::cos(.3f)};
  for (int i = 0; i < 5; ++i) EXPECT_NEAR(y[1][0][i].item<float>(), expected[i], 1e-5);
  expect_close(rotate(y, rotation, Turn::kBack), x);
  // The gradient turns back.
  const at::Tensor g = random({2, 1, 5});
  expect_close(torch::autograd::grad({y}, {x}, {g})[0], rotate(g, rotation, Turn::kBack));
}

TEST(Rope, YarnSlowsSlowPairsDown) {
  RopeSpec rope{.rope_theta = 10000, .dim = 64, .yarn = true};
  rope.factor = 16;
  rope.original_max_position_embeddings = 4096;
  const RopeSpec plain{.rope_theta = 10000, .dim = 64, .yarn = false};
  const at::Tensor position = to_test_device(at::tensor({1}, at::kLong));
  const auto angle = [&](const RopeSpec& r) { return at::angle(make_rotation(position, r, at::kFloat).turn_TP[0]); };
  const at::Tensor slowed = angle(plain) / angle(rope);
  EXPECT_NEAR(slowed[0].item<float>(), 1, 1e-4);    // turns often within 4096 tokens
  EXPECT_NEAR(slowed[31].item<float>(), 16, 1e-2);  // never once
}

// The whole score matrix at once: [N, T, T + E] and the sink.
at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& entries,
                           const at::Tensor& sinks, double scale, const AttentionPattern& pattern) {
  std::vector<at::Tensor> outputs;
  for (size_t s = 0; s + 1 < pattern.cu_seqlens.size(); ++s) {
    const int64_t begin = pattern.cu_seqlens[s], T = pattern.cu_seqlens[s + 1] - begin;
    const int64_t E = pattern.rate ? pattern.cu_entries[s + 1] - pattern.cu_entries[s] : 0;
    at::Tensor keys = kv.narrow(0, begin, T), hidden = at::ones({T, T + E}, at::kBool);
    if (E > 0) keys = at::cat({keys, entries.narrow(0, pattern.cu_entries[s], E)});
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t k = std::max<int64_t>(0, t - pattern.window + 1); k <= t; ++k) hidden[t][k] = false;
      for (int64_t e = 0; e < E && e < (t + 1) / pattern.rate; ++e) hidden[t][T + e] = false;
      if (pattern.chosen.empty() || !pattern.chosen[s].defined() || t < pattern.first_choosing) continue;
      const at::Tensor chosen = pattern.chosen[s][t - pattern.first_choosing].cpu();
      for (int64_t e = 0; e < E; ++e) hidden[t][T + e] = !chosen.eq(e).any().item<bool>();
    }
    at::Tensor scores = at::matmul(q.narrow(0, begin, T).transpose(0, 1), keys.t()) * scale;
    scores = scores.masked_fill(to_test_device(hidden), -std::numeric_limits<double>::infinity());
    const at::Tensor sink = sinks.view({-1, 1, 1}).expand({sinks.size(0), T, 1});
    const at::Tensor probabilities = at::softmax(at::cat({scores, sink}, -1), -1).narrow(-1, 0, T + E);
    outputs.push_back(at::matmul(probabilities, keys).transpose(0, 1));
  }
  return at::cat(outputs);
}

TEST(SinkAttention, BlocksEqualTheWholeMatrix) {
  const at::Tensor q = leaf({370, 3, 8}), kv = leaf({370, 8}), sinks = random({3});
  AttentionPattern pattern;
  pattern.cu_seqlens = {0, 300, 311, 370};  // three blocks, one, one
  pattern.window = 20;
  expect_same(sink_attention(q, kv, {}, sinks, 0.3, pattern), plain_attention(q, kv, {}, sinks, 0.3, pattern), {q, kv});
  pattern.rate = 4;
  pattern.cu_entries = {0, 75, 77, 91};
  const at::Tensor more = leaf({91, 8});
  expect_same(sink_attention(q, kv, more, sinks, 0.3, pattern), plain_attention(q, kv, more, sinks, 0.3, pattern),
              {q, kv, more});
  // The first sequence's tokens choose 5 entries from the first token on that sees 6.
  pattern.first_choosing = first_choosing_token(5, 4);
  pattern.chosen = {{}, {}, {}};
  std::vector<at::Tensor> chosen;
  for (int64_t t = pattern.first_choosing; t < 300; ++t) chosen.push_back(at::randperm((t + 1) / 4).narrow(0, 0, 5));
  pattern.chosen[0] = to_test_device(at::stack(chosen).to(at::kInt));
  expect_same(sink_attention(q, kv, more, sinks, 0.3, pattern), plain_attention(q, kv, more, sinks, 0.3, pattern),
              {q, kv, more});
}

// In bf16 on the CPU blocks are filled up.
TEST(SinkAttention, Bf16IsNearFp32) {
  const at::Tensor q = leaf({150, 2, 16}), kv = leaf({150, 16}), more = leaf({37, 16}), sinks = random({2}),
                   g = random({150, 2, 16});
  AttentionPattern pattern;
  pattern.cu_seqlens = {0, 150};
  pattern.window = 16;
  pattern.rate = 4;
  pattern.cu_entries = {0, 37};
  const auto run = [&](at::ScalarType dtype) {
    at::Tensor out = sink_attention(q.to(dtype), kv.to(dtype), more.to(dtype), sinks, 0.25, pattern);
    auto results = torch::autograd::grad({out}, {q, kv, more}, {g.to(dtype)}, true);
    results.push_back(out.detach().to(at::kFloat));
    return results;
  };
  const auto got = run(at::kBFloat16), wanted = run(at::kFloat);
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_LT((got[i] - wanted[i]).norm().item<double>(), 0.02 * wanted[i].norm().item<double>()) << i;
}

TEST(SinkAttention, NoTokens) {
  AttentionPattern pattern;
  pattern.window = 4;
  EXPECT_EQ(sink_attention(random({0, 3, 8}), random({0, 8}), {}, random({3}), 1, pattern).numel(), 0);
}

// The definition: an entry's slots one by one. With two kinds of columns the window before speaks in its first half.
at::Tensor plain_compress(const at::Tensor& kv, const at::Tensor& gate, const CompressorWeights& weights,
                          const std::vector<int64_t>& cu_seqlens, int64_t rate) {
  const int64_t D = weights.kv_norm_D.size(0);
  const bool two_kinds = kv.size(1) == 2 * D;
  std::vector<at::Tensor> entries;
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s)
    for (int64_t begin = cu_seqlens[s]; begin + rate <= cu_seqlens[s + 1]; begin += rate) {
      std::vector<at::Tensor> values, gates;
      const auto add = [&](int64_t window, int64_t column) {
        values.push_back(kv.narrow(0, window, rate).narrow(1, column, D));
        gates.push_back((gate.narrow(0, window, rate) + weights.position_bias_RC).narrow(1, column, D));
      };
      if (two_kinds && begin > cu_seqlens[s]) add(begin - rate, 0);
      add(begin, two_kinds ? D : 0);
      entries.push_back((at::softmax(at::cat(gates), 0) * at::cat(values)).sum(0));
    }
  const at::Tensor mixed = at::stack(entries);
  return mixed * (mixed.square().mean(-1, true) + weights.rms_norm_eps).rsqrt() * weights.kv_norm_D;
}

// Sequences with and without a rest, and one shorter than a window; entries rotated to their window's first token.
TEST(Compressor, MixesWindowsOfTheirOwnSequence) {
  constexpr int64_t kRate = 4, D = 8;
  const RopeSpec rope{.rope_theta = 100, .dim = 4, .yarn = false};
  Batch batch;
  batch.cu_seqlens = {0, 10, 13, 29, 37};
  std::vector<at::Tensor> positions;
  for (size_t s = 0; s + 1 < batch.cu_seqlens.size(); ++s)
    positions.push_back(at::arange(batch.cu_seqlens[s + 1] - batch.cu_seqlens[s], at::kLong));
  batch.position_ids_T = to_test_device(at::cat(positions));
  const Windows windows = make_windows(batch, kRate, rope, at::kFloat);
  EXPECT_EQ(windows.cu_entries, (std::vector<int64_t>{0, 2, 2, 6, 8}));
  const Rotation of_first =
      make_rotation(to_test_device(at::tensor({0, 4, 0, 4, 8, 12, 0, 4}, at::kLong)), rope, at::kFloat);
  for (const int64_t C : {D, 2 * D}) {
    const at::Tensor kv = leaf({37, C}), gate = leaf({37, C});
    const CompressorWeights weights{random({kRate, C}), random({D}), 1e-6};
    expect_same(compress(kv, gate, weights, windows),
                rotate(plain_compress(kv, gate, weights, batch.cu_seqlens, kRate), of_first), {kv, gate});
  }
}

// Each choosing token has the best of the entries that it sees; more tokens than the indexer scores at a time.
TEST(Indexer, ChoosesTheBestOfWhatATokenSees) {
  constexpr int64_t kRate = 4, kTopK = 5, H = 3, D = 6;
  const std::vector<int64_t> cu_seqlens{0, 20, 20 + 330};
  Windows windows;
  windows.rate = kRate;
  windows.cu_entries = {0, 5, 5 + 82};
  const at::Tensor query = random({350, H, D}), weight = random({350, H}), key = random({87, D});
  const std::vector<at::Tensor> chosen = choose_entries(query, weight, key, cu_seqlens, windows, kTopK);
  EXPECT_TRUE(any_choice(cu_seqlens, windows, kTopK));
  ASSERT_EQ(chosen.size(), 2u);
  EXPECT_FALSE(chosen[0].defined()) << "all its tokens see no more than they may choose";
  const int64_t first = first_choosing_token(kTopK, kRate);
  ASSERT_EQ(chosen[1].sizes(), (std::vector<int64_t>{330 - first, kTopK}));
  const at::Tensor q = query.cpu(), w = weight.cpu(), k = key.cpu().narrow(0, 5, 82);
  const at::Tensor found = chosen[1].cpu().to(at::kLong);
  for (int64_t t = first; t < 330; ++t) {
    const int64_t seen = (t + 1) / kRate;
    const at::Tensor ids = std::get<0>(found[t - first].sort());
    EXPECT_TRUE(ids.lt(seen).all().item<bool>() && ids.diff().gt(0).all().item<bool>()) << t;
    const at::Tensor scores =
        (at::relu(at::matmul(q[20 + t], k.narrow(0, 0, seen).t())) * w[20 + t].unsqueeze(1)).sum(0);
    const at::Tensor best = std::get<0>(scores.topk(kTopK)),
                     taken = std::get<0>(scores.index_select(0, ids).topk(kTopK));
    EXPECT_LT((best - taken).abs().max().item<double>(), 1e-4) << t;
  }
}

TEST(Router, BiasChoosesButWeighsNothing) {
  const at::Tensor logits = to_test_device(at::tensor({0.1f, 2.0f, -1.0f, 1.0f})).view({1, 4});
  const auto ids = [](std::vector<int64_t> values) { return to_test_device(at::tensor(values)).view({-1, 2}); };
  EXPECT_TRUE(at::equal(choose_by_score(logits, at::zeros_like(logits[0]), 2), ids({1, 3})));
  const at::Tensor chosen = choose_by_score(logits, to_test_device(at::tensor({0.f, 0.f, 9.f, 0.f})), 2);
  EXPECT_TRUE(at::equal(chosen, ids({1, 2})));
  const at::Tensor scores = at::softplus(logits).sqrt().index_select(1, ids({1, 2}).flatten());
  expect_close(routing_weights(logits, chosen, 1.5), scores / scores.sum() * 1.5);
  const at::Tensor tokens = to_test_device(at::tensor({1, 0, 1}, at::kLong));
  EXPECT_TRUE(at::equal(choose_by_token(tokens, ids({3, 0, 2, 1})), ids({1, 2, 0, 3, 1, 2})));
}

}  // namespace
}  // namespace moraine::deepseek_v4
