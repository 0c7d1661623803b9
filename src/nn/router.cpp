#include "nn/router.h"

namespace moraine {

Routing route_softmax_topk(const at::Tensor& logits_TE, int64_t num_experts_per_tok, bool norm_topk_prob,
                           const at::Tensor& chosen_TK) {
  at::Tensor probabilities = at::softmax(logits_TE, -1, at::kFloat);
  Routing routing;
  if (chosen_TK.defined()) {
    routing.indices_TK = chosen_TK;
  } else {
    at::Tensor top = std::get<1>(probabilities.detach().topk(num_experts_per_tok, -1));
    routing.indices_TK = std::get<0>(top.sort(-1));
  }
  at::Tensor weights = probabilities.gather(1, routing.indices_TK);
  if (norm_topk_prob) weights = weights / weights.sum(-1, /*keepdim=*/true);
  routing.weights_TK = weights;
  routing.probabilities_TE = probabilities;
  return routing;
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
