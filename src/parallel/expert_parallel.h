// Tokens to experts and back: route → dispatch → experts → combine.
//
// Shape suffixes: T tokens, K experts a token, R routed rows (T·K on one rank), D hidden.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "parallel/layer_image.h"

namespace moraine {

// Where every routed row goes. Made once, in the forward pass, and used again by the recomputation, so that both route
// alike and exchange nothing twice.
struct DispatchPlan {
  at::Tensor token_of_row_R;   // int64: the token that row r is copied from; rows are sorted by expert
  at::Tensor pair_of_row_R;    // int64: t·K + j of the choice that row r serves; -1 for a row that only fills up
  at::Tensor row_of_pair_TK;   // int64: its inverse
  std::vector<int64_t> rows_of_expert;  // rows of each local expert, in order, those that fill up included
};

class ExpertParallel {
 public:
  // Every expert's rows are filled up to a multiple of `row_alignment` (see gemm_row_alignment); rows that fill up are
  // copies of token 0, and nothing reads what becomes of them.
  ExpertParallel(int64_t num_experts, int64_t row_alignment) : num_experts_(num_experts), row_alignment_(row_alignment) {}

  ExpertRange local_experts() const { return {0, num_experts_}; }

  // indices_TK: rising expert ids of each token's choices.
  DispatchPlan plan(const at::Tensor& indices_TK) const;
  // Copies tokens to routed rows: x_TD → x_RD sorted by local expert. Differentiable.
  at::Tensor dispatch(const at::Tensor& x_TD, const DispatchPlan& plan) const;
  // Sums each token's expert outputs, weighted, in rising order of expert id in fp32, and rounds once. No atomics and no
  // index_add: equal inputs give equal bits. Differentiable in y_RD and weights_TK.
  at::Tensor combine(const at::Tensor& y_RD, const at::Tensor& weights_TK, const DispatchPlan& plan) const;

 private:
  int64_t num_experts_, row_alignment_;
};

}  // namespace moraine
