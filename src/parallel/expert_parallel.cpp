#include "parallel/expert_parallel.h"

#include <torch/csrc/autograd/custom_function.h>

#include "base/bytes.h"
#include "kernels/row_ops.h"
#include "tensor/kernel_matrix.h"
#include "tensor/to_device.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Sum over j of weight_TK[:, j] · y[sent_of_pair[:, j]], in that order, in fp32. `weights` undefined = all ones.
at::Tensor weighted_sum_of_rows(const at::Tensor& y_SD, const at::Tensor& sent_of_pair_TK,
                                const at::Tensor& weights_TK) {
  if (runs_in_kernels(y_SD)) {
    const at::Tensor y = y_SD.contiguous(), rows = sent_of_pair_TK.contiguous();
    const at::Tensor weights = weights_TK.defined() ? weights_TK.to(at::kFloat).contiguous() : weights_TK;
    const at::Tensor out = at::empty({rows.size(0), y.size(1)}, y.options());
    const int64_t K = rows.size(1);
    for_row_stretches(out, [&](int64_t row, int64_t count) {
      kernels::sum_rows(kernel_matrix(y), rows.const_data_ptr<int64_t>() + row * K,
                        weights.defined() ? weights.const_data_ptr<float>() + row * K : nullptr, K, count, y.size(1),
                        mutable_kernel_matrix(out).from(row));
    });
    return out;
  }
  at::Tensor sum = at::zeros({sent_of_pair_TK.size(0), y_SD.size(1)}, y_SD.options().dtype(at::kFloat));
  for (int64_t j = 0; j < sent_of_pair_TK.size(1); ++j) {
    at::Tensor row = y_SD.index_select(0, sent_of_pair_TK.select(1, j)).to(at::kFloat);
    if (weights_TK.defined()) {
      sum.addcmul_(row, weights_TK.select(1, j).unsqueeze(1).to(at::kFloat));
    } else {
      sum.add_(row);
    }
  }
  return sum.to(y_SD.scalar_type());
}

// d_TD[token_of_S] · weight_S1, and the dot product of each d_TD[token_of_S] and row of y_SD in fp32.
std::pair<at::Tensor, at::Tensor> scaled_rows_and_dots(const at::Tensor& d_TD, const at::Tensor& token_of_S,
                                                       const at::Tensor& weight_S1, const at::Tensor& y_SD) {
  if (runs_in_kernels(d_TD)) {
    const at::Tensor d = d_TD.contiguous(), y = y_SD.contiguous(), weights = weight_S1.to(at::kFloat).contiguous();
    const at::Tensor scaled = at::empty(y.sizes(), d.options()), dots = at::empty({y.size(0)}, weights.options());
    for_row_stretches(scaled, [&](int64_t row, int64_t count) {
      kernels::scale_rows_and_dot(kernel_matrix(d), token_of_S.const_data_ptr<int64_t>() + row,
                                  weights.const_data_ptr<float>() + row, kernel_matrix(y).from(row, 0), count,
                                  y.size(1), mutable_kernel_matrix(scaled).from(row),
                                  dots.mutable_data_ptr<float>() + row);
    });
    return {scaled, dots};
  }
  const at::Tensor d_sent = d_TD.index_select(0, token_of_S);
  return {d_sent * weight_S1, d_sent.to(at::kFloat).mul_(y_SD.to(at::kFloat)).sum(1)};
}

// What both autograd nodes keep besides tensors. The plan outlives the backward pass (DispatchPlan).
struct Exchange {
  const ExpertParallel* experts;
  const DispatchPlan* plan;

  void save(AutogradContext* context) const {
    context->saved_data["experts"] = reinterpret_cast<int64_t>(experts);
    context->saved_data["plan"] = reinterpret_cast<int64_t>(plan);
  }
  static Exchange load(AutogradContext* context) {
    return {reinterpret_cast<const ExpertParallel*>(context->saved_data["experts"].toInt()),
            reinterpret_cast<const DispatchPlan*>(context->saved_data["plan"].toInt())};
  }
};

class Dispatch : public torch::autograd::Function<Dispatch> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_TD, Exchange exchange) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    exchange.save(context);
    return exchange.experts->to_experts(x_TD.index_select(0, exchange.plan->token_of_sent_S), *exchange.plan);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const Exchange exchange = Exchange::load(context);
    const at::Tensor d_sent = exchange.experts->from_experts(grads[0], *exchange.plan);
    return {weighted_sum_of_rows(d_sent, exchange.plan->sent_of_pair_TK, {}), at::Tensor()};
  }
};

class Combine : public torch::autograd::Function<Combine> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& y_RD, const at::Tensor& weights_TK,
                            Exchange exchange) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor y_SD = exchange.experts->from_experts(y_RD, *exchange.plan);
    exchange.save(context);
    context->save_for_backward({y_SD, weights_TK});
    return weighted_sum_of_rows(y_SD, exchange.plan->sent_of_pair_TK, weights_TK);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const Exchange exchange = Exchange::load(context);
    const DispatchPlan& plan = *exchange.plan;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &y_SD = saved[0], &weights_TK = saved[1];
    // Rows that only fill up have weight 0: no gradient enters through them.
    const at::Tensor weight_of_sent = weights_TK.reshape({-1})
                                          .index_select(0, plan.pair_of_sent_S.clamp_min(0))
                                          .mul_(plan.pair_of_sent_S.ge(0))
                                          .unsqueeze(1);
    const auto [scaled, dot_S] = scaled_rows_and_dots(grads[0], plan.token_of_sent_S, weight_of_sent, y_SD);
    at::Tensor dy = exchange.experts->to_experts(scaled, plan);
    if (plan.filling_rows.defined()) dy.index_fill_(0, plan.filling_rows, 0);
    at::Tensor d_weights = dot_S.index_select(0, plan.sent_of_pair_TK.reshape({-1})).view_as(plan.sent_of_pair_TK);
    return {dy, d_weights.to(weights_TK.scalar_type()), at::Tensor()};
  }
};

std::vector<int64_t> to_vector(const at::Tensor& counts) {
  const at::Tensor host = counts.to(at::kCPU).contiguous();
  return {host.const_data_ptr<int64_t>(), host.const_data_ptr<int64_t>() + host.numel()};
}

}  // namespace

DispatchPlan ExpertParallel::plan(const at::Tensor& indices_TK) const {
  at::NoGradGuard no_grad;
  DispatchPlan plan;
  const at::Tensor expert_of_pair = indices_TK.reshape({-1});
  const at::Tensor sorted_pairs = at::argsort(expert_of_pair, /*stable=*/true);
  // Not at::bincount: on CUDA that waits for the largest value.
  const at::Tensor counts_E = at::zeros({num_experts_}, expert_of_pair.options())
                                  .scatter_add_(0, expert_of_pair, at::ones_like(expert_of_pair));
  const bool exchanges = tokens_.size() > 1;
  const RowCounts counts = count_rows(counts_E);
  // Where each expert's rows begin, and how far that is behind the place among the sorted pairs. With several ranks the
  // receiver fills up, not the sender.
  const int64_t alignment = exchanges ? 1 : row_alignment_;
  int64_t rows = 0, pairs = 0;
  std::vector<int64_t> shift_of_expert;
  for (int64_t count : counts.sent_E) {
    shift_of_expert.push_back(rows - pairs);
    plan.rows_of_expert.push_back(static_cast<int64_t>(round_up(count, alignment)));
    pairs += count;
    rows += plan.rows_of_expert.back();
  }
  at::Tensor sent_of_sorted = at::arange(expert_of_pair.size(0), expert_of_pair.options());
  if (alignment > 1) {
    const at::Tensor shift = to_device(shift_of_expert, indices_TK.device());
    sent_of_sorted += shift.index_select(0, expert_of_pair.index_select(0, sorted_pairs));
  }
  plan.pair_of_sent_S = at::full({rows}, -1, expert_of_pair.options()).index_copy_(0, sent_of_sorted, sorted_pairs);
  plan.token_of_sent_S = plan.pair_of_sent_S.clamp_min(0).floor_divide_(indices_TK.size(1));
  plan.sent_of_pair_TK =
      at::empty_like(expert_of_pair).index_copy_(0, sorted_pairs, sent_of_sorted).view_as(indices_TK);
  if (exchanges) plan_exchange(counts, indices_TK.device(), plan);
  return plan;
}

// The one place where the host waits for what was routed.
RowCounts ExpertParallel::count_rows(const at::Tensor& counts_E) const {
  const int64_t ep = tokens_.size(), local = local_experts().count;
  if (ep == 1) return planned_ ? *planned_ : RowCounts{to_vector(counts_E), {}};
  std::vector<int64_t> experts_of_rank;
  for (int64_t rank = 0; rank < ep; ++rank) experts_of_rank.push_back(expert_range(num_experts_, ep, rank).count);
  // Both lie behind each other, so that one copy brings them to the host.
  const at::Tensor both = at::empty({num_experts_ + ep * local}, counts_E.options());
  const at::Tensor sent = both.narrow(0, 0, num_experts_), received = both.narrow(0, num_experts_, ep * local);
  sent.copy_(counts_E);
  tokens_.all_to_all_single(received, counts_E, std::vector<int64_t>(ep, local), experts_of_rank);
  if (planned_) return *planned_;
  const std::vector<int64_t> counts = to_vector(both);
  return {{counts.begin(), counts.begin() + num_experts_}, {counts.begin() + num_experts_, counts.end()}};
}

void ExpertParallel::plan_exchange(const RowCounts& counts, at::Device device, DispatchPlan& plan) const {
  const int64_t ep = tokens_.size(), local = local_experts().count;
  const auto received = [&](int64_t rank, int64_t expert) { return counts.received[rank * local + expert]; };
  for (int64_t rank = 0, e = 0; rank < ep; ++rank) {
    int64_t to = 0, from = 0;
    for (const int64_t end = e + expert_range(num_experts_, ep, rank).count; e < end; ++e) to += counts.sent_E[e];
    for (int64_t i = 0; i < local; ++i) from += received(rank, i);
    plan.send_splits.push_back(to);
    plan.receive_splits.push_back(from);
  }
  // An expert's rows are those of rank 0, then rank 1, and so on. Each rank's rows for each expert stay together, so
  // they all move equally far.
  std::vector<int64_t> first_row(ep * local), filling;
  int64_t rows = 0;
  plan.rows_of_expert.assign(local, 0);
  for (int64_t i = 0; i < local; ++i) {
    const int64_t begin = rows;
    for (int64_t rank = 0; rank < ep; ++rank) {
      first_row[rank * local + i] = rows;
      rows += received(rank, i);
    }
    plan.rows_of_expert[i] = static_cast<int64_t>(round_up(rows - begin, row_alignment_));
    for (; rows < begin + plan.rows_of_expert[i]; ++rows) filling.push_back(rows);
  }
  std::vector<int64_t> ends, moves;
  int64_t arrived = 0;
  for (size_t part = 0; part < first_row.size(); ++part) {
    moves.push_back(first_row[part] - arrived);
    ends.push_back(arrived += counts.received[part]);
  }
  const at::Tensor places_V = at::arange(arrived, at::TensorOptions().dtype(at::kLong).device(device));
  const at::Tensor part_of_V = at::searchsorted(to_device(ends, device), places_V, /*out_int32=*/false, /*right=*/true);
  plan.row_of_received_V = to_device(moves, device).index_select(0, part_of_V).add_(places_V);
  plan.received_of_row_R = at::zeros({rows}, places_V.options()).index_copy_(0, plan.row_of_received_V, places_V);
  plan.filling_rows = to_device(filling, device);
}

at::Tensor ExpertParallel::to_experts(const at::Tensor& sent_SD, const DispatchPlan& plan) const {
  if (tokens_.size() == 1) return sent_SD;
  at::Tensor received_VD = at::empty({plan.row_of_received_V.size(0), sent_SD.size(1)}, sent_SD.options());
  tokens_.all_to_all_single(received_VD, sent_SD.contiguous(), plan.receive_splits, plan.send_splits);
  return received_VD.index_select(0, plan.received_of_row_R);
}

at::Tensor ExpertParallel::from_experts(const at::Tensor& y_RD, const DispatchPlan& plan) const {
  if (tokens_.size() == 1) return y_RD;
  at::Tensor sent_SD = at::empty({plan.token_of_sent_S.size(0), y_RD.size(1)}, y_RD.options());
  tokens_.all_to_all_single(sent_SD, y_RD.index_select(0, plan.row_of_received_V), plan.send_splits,
                            plan.receive_splits);
  return sent_SD;
}

at::Tensor ExpertParallel::dispatch(const at::Tensor& x_TD, const DispatchPlan& plan) const {
  return Dispatch::apply(x_TD, Exchange{this, &plan});
}

at::Tensor ExpertParallel::combine(const at::Tensor& y_RD, const at::Tensor& weights_TK,
                                   const DispatchPlan& plan) const {
  return Combine::apply(y_RD, weights_TK, Exchange{this, &plan});
}

}  // namespace moraine
