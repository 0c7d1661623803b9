#include "models/deepseek_v4/router.h"

#include "nn/whole_vectors.h"

namespace moraine::deepseek_v4 {
namespace {

at::Tensor scores_of(const at::Tensor& logits_TE) {
  return on_whole_vectors(logits_TE.to(at::kFloat), [](const at::Tensor& x) { return at::softplus(x).sqrt(); });
}

}  // namespace

at::Tensor choose_by_score(const at::Tensor& logits_TE, const at::Tensor& bias_E, int64_t num_experts_per_tok) {
  at::NoGradGuard no_grad;
  const at::Tensor top = std::get<1>((scores_of(logits_TE) + bias_E).topk(num_experts_per_tok, -1));
  return std::get<0>(top.sort(-1));
}

at::Tensor choose_by_token(const at::Tensor& input_ids_T, const at::Tensor& tid2eid_VK) {
  return std::get<0>(tid2eid_VK.index_select(0, input_ids_T).sort(-1));
}

at::Tensor routing_weights(const at::Tensor& logits_TE, const at::Tensor& chosen_TK, double factor) {
  const at::Tensor scores = scores_of(logits_TE.gather(1, chosen_TK));
  return (scores / (scores.sum(-1, /*keepdim=*/true) + 1e-20) * factor).to(logits_TE.scalar_type());
}

}  // namespace moraine::deepseek_v4
