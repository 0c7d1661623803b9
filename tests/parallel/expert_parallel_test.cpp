#include "parallel/expert_parallel.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace moraine {
namespace {

class ExpertParallelRows : public testing::TestWithParam<int64_t> {};

TEST_P(ExpertParallelRows, DispatchAndCombineEqualADenseMixture) {
  const int64_t T = 9, E = 5, K = 2, D = 4;
  at::Tensor x = at::randn({T, D}).requires_grad_(), scores = at::randn({T, E});
  at::Tensor indices = std::get<0>(std::get<1>(scores.topk(K, -1)).sort(-1));
  at::Tensor weights = at::rand({T, K}).requires_grad_(), scale_of_expert = at::randn({E});
  ProcessGroup self;
  const ExpertParallel experts(E, /*row_alignment=*/GetParam(), self);
  const DispatchPlan plan = experts.plan(indices);
  int64_t rows = 0;
  std::vector<int64_t> expert_of_row;
  for (int64_t e = 0; e < E; ++e)
    for (int64_t i = 0; i < plan.rows_of_expert[e]; ++i, ++rows) expert_of_row.push_back(e);
  for (int64_t count : plan.rows_of_expert) EXPECT_EQ(count % GetParam(), 0);
  ASSERT_GE(rows, T * K);
  // Expert e multiplies its rows by a number of its own.
  at::Tensor row_scale = scale_of_expert.index_select(0, at::tensor(expert_of_row, at::kLong)).unsqueeze(1);
  at::Tensor y = experts.combine(experts.dispatch(x, plan) * row_scale, weights, plan);

  at::Tensor expected = x * (weights * scale_of_expert.index({indices})).sum(1, true);
  EXPECT_LT((y - expected).abs().max().item<double>(), 1e-5);
  at::Tensor g = at::randn({T, D});
  auto got = torch::autograd::grad({y}, {x, weights}, {g}),
       wanted = torch::autograd::grad({expected}, {x, weights}, {g});
  for (int i = 0; i < 2; ++i) EXPECT_LT((got[i] - wanted[i]).abs().max().item<double>(), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Alignments, ExpertParallelRows, testing::Values(1, 16));

TEST(ExpertParallel, NoTokens) {
  ProcessGroup self;
  const ExpertParallel experts(3, 16, self);
  const DispatchPlan plan = experts.plan(at::zeros({0, 2}, at::kLong));
  EXPECT_EQ(plan.rows_of_expert, (std::vector<int64_t>{0, 0, 0}));
  at::Tensor y = experts.combine(experts.dispatch(at::zeros({0, 4}), plan), at::zeros({0, 2}), plan);
  EXPECT_EQ(y.sizes(), (std::vector<int64_t>{0, 4}));
}

}  // namespace
}  // namespace moraine
