#include "parallel/expert_parallel.h"

#include <torch/csrc/autograd/custom_function.h>

#include "base/bytes.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Sum over j of weight_TK[:, j] · y[row_of_pair[:, j]], in that order, in fp32. `weights` undefined = all ones.
at::Tensor weighted_sum_of_rows(const at::Tensor& y_RD, const at::Tensor& row_of_pair_TK, const at::Tensor& weights_TK) {
  at::Tensor sum = at::zeros({row_of_pair_TK.size(0), y_RD.size(1)}, y_RD.options().dtype(at::kFloat));
  for (int64_t j = 0; j < row_of_pair_TK.size(1); ++j) {
    at::Tensor row = y_RD.index_select(0, row_of_pair_TK.select(1, j)).to(at::kFloat);
    if (weights_TK.defined()) {
      sum.addcmul_(row, weights_TK.select(1, j).unsqueeze(1).to(at::kFloat));
    } else {
      sum.add_(row);
    }
  }
  return sum.to(y_RD.scalar_type());
}

class Dispatch : public torch::autograd::Function<Dispatch> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_TD, const at::Tensor& token_of_row_R,
                            const at::Tensor& row_of_pair_TK) {
    at::AutoDispatchBelowAutograd below_autograd;
    context->save_for_backward({row_of_pair_TK});
    return x_TD.index_select(0, token_of_row_R);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowAutograd below_autograd;
    const at::Tensor row_of_pair_TK = context->get_saved_variables()[0];
    return {weighted_sum_of_rows(grads[0], row_of_pair_TK, {}), at::Tensor(), at::Tensor()};
  }
};

class Combine : public torch::autograd::Function<Combine> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& y_RD, const at::Tensor& weights_TK,
                            const at::Tensor& token_of_row_R, const at::Tensor& pair_of_row_R,
                            const at::Tensor& row_of_pair_TK) {
    at::AutoDispatchBelowAutograd below_autograd;
    context->save_for_backward({y_RD, weights_TK, token_of_row_R, pair_of_row_R, row_of_pair_TK});
    return weighted_sum_of_rows(y_RD, row_of_pair_TK, weights_TK);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowAutograd below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &y_RD = saved[0], &weights_TK = saved[1], &token_of_row_R = saved[2], &pair_of_row_R = saved[3],
                     &row_of_pair_TK = saved[4];
    const at::Tensor d_row = grads[0].index_select(0, token_of_row_R);
    // Rows that only fill up have weight 0: no gradient enters through them.
    const at::Tensor weight_of_row = weights_TK.reshape({-1})
                                         .index_select(0, pair_of_row_R.clamp_min(0))
                                         .mul_(pair_of_row_R.ge(0))
                                         .unsqueeze(1);
    at::Tensor dy = d_row * weight_of_row;
    at::Tensor dot_R = (d_row.to(at::kFloat) * y_RD).sum(1);
    at::Tensor d_weights = dot_R.index_select(0, row_of_pair_TK.reshape({-1})).view_as(row_of_pair_TK);
    return {dy, d_weights.to(weights_TK.scalar_type()), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

DispatchPlan ExpertParallel::plan(const at::Tensor& indices_TK) const {
  at::NoGradGuard no_grad;
  DispatchPlan plan;
  const at::Tensor expert_of_pair = indices_TK.reshape({-1});
  const at::Tensor sorted_pairs = at::argsort(expert_of_pair, /*stable=*/true);
  const at::Tensor counts = at::bincount(expert_of_pair, {}, num_experts_).to(at::kCPU);
  // Where each expert's rows begin, and how far that is behind the place among the sorted pairs.
  int64_t rows = 0, pairs = 0;
  std::vector<int64_t> shift_of_expert;
  for (int64_t e = 0; e < num_experts_; ++e) {
    const int64_t count = counts.const_data_ptr<int64_t>()[e];
    shift_of_expert.push_back(rows - pairs);
    plan.rows_of_expert.push_back(static_cast<int64_t>(round_up(count, row_alignment_)));
    pairs += count;
    rows += plan.rows_of_expert.back();
  }
  const at::Tensor shift = at::tensor(shift_of_expert, counts.options()).to(indices_TK.device());
  const at::Tensor row_of_sorted = at::arange(expert_of_pair.size(0), expert_of_pair.options()) +
                                   shift.index_select(0, expert_of_pair.index_select(0, sorted_pairs));
  plan.pair_of_row_R = at::full({rows}, -1, expert_of_pair.options()).index_copy_(0, row_of_sorted, sorted_pairs);
  plan.token_of_row_R = plan.pair_of_row_R.clamp_min(0).floor_divide_(indices_TK.size(1));
  plan.row_of_pair_TK =
      at::empty_like(expert_of_pair).index_copy_(0, sorted_pairs, row_of_sorted).view_as(indices_TK);
  return plan;
}

at::Tensor ExpertParallel::dispatch(const at::Tensor& x_TD, const DispatchPlan& plan) const {
  return Dispatch::apply(x_TD, plan.token_of_row_R, plan.row_of_pair_TK);
}

at::Tensor ExpertParallel::combine(const at::Tensor& y_RD, const at::Tensor& weights_TK,
                                   const DispatchPlan& plan) const {
  return Combine::apply(y_RD, weights_TK, plan.token_of_row_R, plan.pair_of_row_R, plan.row_of_pair_TK);
}

}  // namespace moraine
