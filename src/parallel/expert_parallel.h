// Tokens to experts and back: route → dispatch → experts → combine.
//
// Shape suffixes: T tokens, K experts per token, S rows sent (T·K, more where they fill up), V rows received, R rows
// that this rank's experts work on, D hidden.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <utility>
#include <vector>

#include "distributed/collectives/process_group.h"
#include "parallel/layer_image.h"

namespace moraine {

// Where every routed row goes. Made once, in the forward pass, and used again by the recomputation, so that both route
// alike and exchange counts only once. Must outlive the backward pass.
struct DispatchPlan {
  at::Tensor token_of_sent_S;  // int64: the token that row s is copied from; rows are sorted by expert
  at::Tensor pair_of_sent_S;   // int64: t·K + j of the choice that row s serves; -1 for a row that only fills up
  at::Tensor sent_of_pair_TK;  // int64: its inverse
  std::vector<int64_t> rows_of_expert;  // rows of each local expert, in order, those that fill up included

  // Only with several EP ranks; rows arrive by source rank, then by expert.
  std::vector<int64_t> send_splits, receive_splits;  // rows to and from each rank
  at::Tensor row_of_received_V;                      // int64: where a received row goes among the experts' rows
  at::Tensor received_of_row_R;                      // int64: its inverse; 0 for a row that only fills up
  at::Tensor filling_rows;                           // int64: the rows that only fill up
};

// How many rows go where.
struct RowCounts {
  std::vector<int64_t> sent_E;    // rows from this rank to each expert
  std::vector<int64_t> received;  // with several ranks: from each rank to each local expert, [ranks · local experts]
};

// What routing is taken to find where tensors are meta ones and nothing can be counted.
using PlannedCounts = RowCounts;

// All ranks of the tokens group must make each call, also those without tokens, in the same order.
class ExpertParallel {
 public:
  // `tokens` is the EP group and outlives this object. Every expert's rows are filled up to a multiple of
  // `row_alignment` (see gemm_row_alignment); rows that fill up hold copies of others, and nothing reads what becomes
  // of them.
  ExpertParallel(int64_t num_experts, int64_t row_alignment, ProcessGroup& tokens,
                 std::optional<PlannedCounts> planned = {})
      : num_experts_(num_experts), row_alignment_(row_alignment), tokens_(tokens), planned_(std::move(planned)) {}

  ExpertRange local_experts() const { return expert_range(num_experts_, tokens_.size(), tokens_.rank()); }

  // indices_TK: rising expert ids of each token's choices.
  DispatchPlan plan(const at::Tensor& indices_TK) const;
  // Copies tokens to the rows of this rank's experts: x_TD → x_RD sorted by local expert. Differentiable.
  at::Tensor dispatch(const at::Tensor& x_TD, const DispatchPlan& plan) const;
  // Sums each token's expert outputs, weighted, in rising order of expert id in fp32, and rounds once. No atomics and
  // no index_add: equal inputs give equal bits. Differentiable in y_RD and weights_TK.
  at::Tensor combine(const at::Tensor& y_RD, const at::Tensor& weights_TK, const DispatchPlan& plan) const;

  // The exchange alone, without autograd: rows as sent → rows of the local experts, and the same way back.
  at::Tensor to_experts(const at::Tensor& sent_SD, const DispatchPlan& plan) const;
  at::Tensor from_experts(const at::Tensor& y_RD, const DispatchPlan& plan) const;

 private:
  RowCounts count_rows(const at::Tensor& counts_E) const;
  void plan_exchange(const RowCounts& counts, at::Device device, DispatchPlan& plan) const;

  int64_t num_experts_, row_alignment_;
  ProcessGroup& tokens_;
  std::optional<PlannedCounts> planned_;
};

}  // namespace moraine
