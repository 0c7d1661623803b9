#include "nn/router.h"

#include <limits>

#include "nn/whole_vectors.h"

namespace moraine {

namespace {

at::Tensor scores_of(const at::Tensor& logits_TE, RouterScores scores) {
  if (scores == RouterScores::kSoftmax) return at::softmax(logits_TE, -1, at::kFloat);
  return on_whole_vectors(logits_TE.to(at::kFloat), [](const at::Tensor& x) { return x.sigmoid(); });
}

// scores_TE with -inf in the groups that are not kept.
at::Tensor within_best_groups(const at::Tensor& scores_TE, const RouterRule& rule) {
  const at::Tensor by_group = scores_TE.unflatten(1, {rule.groups, rule.num_experts / rule.groups});
  const at::Tensor best_two = std::get<0>(by_group.topk(2, -1)).sum(-1);
  const at::Tensor kept = std::get<1>(best_two.topk(rule.groups_kept, -1));
  const at::Tensor left_out = at::ones_like(best_two, at::kBool).scatter_(1, kept, false);
  return by_group.masked_fill(left_out.unsqueeze(-1), -std::numeric_limits<float>::infinity()).flatten(1);
}

at::Tensor choose(const at::Tensor& scores_TE, const RouterRule& rule, const at::Tensor& correction_E) {
  at::Tensor by = correction_E.defined() ? scores_TE + correction_E : scores_TE;
  if (rule.groups > 1) by = within_best_groups(by, rule);
  return std::get<0>(std::get<1>(by.topk(rule.experts_per_token, -1)).sort(-1));
}

}  // namespace

Routing route(const at::Tensor& logits_TE, const RouterRule& rule, const at::Tensor& correction_E,
              const at::Tensor& chosen_TK) {
  Routing routing;
  const at::Tensor& scores = routing.scores_TE = scores_of(logits_TE, rule.scores);
  routing.indices_TK = chosen_TK.defined() ? chosen_TK : choose(scores.detach(), rule, correction_E);
  routing.weights_TK = scores.gather(1, routing.indices_TK);
  if (rule.normalised) {
    at::Tensor sum = routing.weights_TK.sum(-1, /*keepdim=*/true);
    if (rule.sum_epsilon > 0) sum = sum + rule.sum_epsilon;
    if (rule.least_sum > 0) sum = sum.clamp_min(rule.least_sum);
    routing.weights_TK = routing.weights_TK / sum;
  }
  if (rule.scale != 1) routing.weights_TK = routing.weights_TK * rule.scale;
  return routing;
}

at::Tensor count_favoured(const at::Tensor& logits_TE, const at::Tensor& real_T, int64_t experts_per_token) {
  return count_choices(std::get<1>(logits_TE.detach().topk(experts_per_token, -1)), real_T, logits_TE.size(1));
}

at::Tensor count_choices(const at::Tensor& indices_TK, const at::Tensor& real_T, int64_t num_experts) {
  // Not at::bincount: on CUDA that waits for the largest value.
  const at::Tensor ones =
      real_T.defined() ? real_T.unsqueeze(1).expand_as(indices_TK).to(at::kLong) : at::ones_like(indices_TK);
  return at::zeros({num_experts}, indices_TK.options()).scatter_add_(0, indices_TK.reshape({-1}), ones.reshape({-1}));
}

at::Tensor sum_of_real_rows(const at::Tensor& x_TE, const at::Tensor& real_T) {
  return (real_T.defined() ? x_TE * real_T.unsqueeze(1) : x_TE).sum(0, /*keepdim=*/false, at::kDouble);
}

}  // namespace moraine
