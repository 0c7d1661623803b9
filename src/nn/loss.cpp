#include "nn/loss.h"

#include "base/bytes.h"
#include "nn/gemm_shapes.h"
#include "nn/matmul.h"

namespace moraine {
namespace {

// a · b, by way of a row count that products should have.
at::Tensor aligned_matmul(const at::Tensor& a, const at::Tensor& b) {
  const int64_t rows = a.size(0), step = gemm_row_alignment(a.device(), a.scalar_type());
  const int64_t filled = static_cast<int64_t>(round_up(rows, step));
  at::Tensor product = at::empty({filled, b.size(1)}, a.options());
  matmul_into(product, filled == rows ? a : at::constant_pad_nd(a, {0, 0, 0, filled - rows}), b);
  return product.narrow(0, 0, rows);
}

}  // namespace

LossResult chunked_cross_entropy(const at::Tensor& hidden_TD, const at::Tensor& head_VD, const at::Tensor& targets_T,
                                 WithGradient with_gradient, double loss_scale, int64_t chunk_rows) {
  at::NoGradGuard no_grad;
  const bool needs_gradient = with_gradient == WithGradient::kYes;
  LossResult result;
  result.token_loss_T = at::zeros({hidden_TD.size(0)}, hidden_TD.options().dtype(at::kFloat));
  if (needs_gradient) result.grad_hidden_TD = at::zeros_like(hidden_TD);
  const at::Tensor rows = at::nonzero(targets_T.ne(-100)).squeeze(1);
  result.trained_tokens = rows.size(0);
  at::Tensor loss_sum = at::zeros({}, hidden_TD.options().dtype(at::kDouble));
  for (int64_t begin = 0; begin < rows.size(0); begin += chunk_rows) {
    const at::Tensor chunk = rows.narrow(0, begin, std::min(chunk_rows, rows.size(0) - begin));
    const at::Tensor target = targets_T.index_select(0, chunk).unsqueeze(1);
    at::Tensor logits = aligned_matmul(hidden_TD.index_select(0, chunk), head_VD.t()).to(at::kFloat);
    const at::Tensor log_sum = logits.logsumexp(-1, /*keepdim=*/true);
    const at::Tensor loss = (log_sum - logits.gather(1, target)).squeeze(1);
    loss_sum += loss.sum(at::kDouble);
    result.token_loss_T.index_copy_(0, chunk, loss);
    if (!needs_gradient) continue;
    // d loss / d logits = softmax - one-hot
    logits.sub_(log_sum).exp_();
    logits.scatter_add_(1, target, at::full_like(loss, -1.0).unsqueeze(1));
    at::Tensor grad = aligned_matmul(logits.mul_(loss_scale).to(head_VD.scalar_type()), head_VD);
    result.grad_hidden_TD.index_copy_(0, chunk, grad);
  }
  if (!loss_sum.is_meta()) result.loss_sum = loss_sum.item<double>();
  return result;
}

}  // namespace moraine
