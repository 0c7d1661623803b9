// Shape suffixes besides the header's: N trained tokens of a chunk, F the same filled up, R low rank.
#include "nn/loss.h"

#include <algorithm>
#include <optional>

#include "base/bytes.h"
#include "kernels/row_ops.h"
#include "nn/dropout.h"
#include "nn/gemm_shapes.h"
#include "nn/matmul.h"
#include "nn/outer_products.h"
#include "tensor/kernel_matrix.h"

namespace moraine {
namespace {

// With zero rows up to `rows`.
at::Tensor filled_up(const at::Tensor& x, int64_t rows) {
  return rows == x.size(0) ? x : at::constant_pad_nd(x, {0, 0, 0, rows - x.size(0)});
}

at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
  matmul_into(out, a, b);
  return out;
}

// The head's adapter on one chunk, in the dtype of its factors.
class ChunkLora {
 public:
  // `rows_N`: the chunk's places in the batch.
  ChunkLora(const LoraPair& lora, const at::Tensor& x_FD, const at::Tensor& rows_N)
      : lora_(lora), x_FD_(x_FD.to(lora.a.scalar_type())) {
    if (lora.dropout.on()) {
      LoraDropout dropout = lora.dropout;
      dropout.token_keys_T = dropout.token_keys_T.index_select(0, rows_N);
      factors_FD_ = filled_up(dropout_factors_TI(dropout, x_FD.size(1)), x_FD.size(0));
      x_FD_ = x_FD_ * factors_FD_;
    }
    low_FR_ = at::mm(x_FD_, lora.a.t());
  }
  // logits + s · (x · Aᵀ) · Bᵀ, rounded to the dtype of the logits.
  at::Tensor add_to(const at::Tensor& logits_FV) const {
    return at::addmm(logits_FV.to(low_FR_.scalar_type()), low_FR_, lora_.b.t(), 1.0, lora_.scaling)
        .to(logits_FV.scalar_type());
  }
  // From d loss / d logits what comes to d loss / d x, in x's dtype; adds the factors' gradients.
  at::Tensor backward(const at::Tensor& dlogits_FV, at::ScalarType x_dtype) const {
    const at::Tensor dy_FV = dlogits_FV.to(low_FR_.scalar_type());
    const at::Tensor dlow_FR = at::mm(dy_FV, lora_.b).mul_(lora_.scaling);
    if (lora_.a_grad.defined()) {
      add_outer_products(lora_.b_grad, dy_FV, low_FR_, lora_.scaling);
      add_outer_products(lora_.a_grad, dlow_FR, x_FD_, 1.0);
    }
    at::Tensor dx_FD = at::mm(dlow_FR, lora_.a);
    if (factors_FD_.defined()) dx_FD.mul_(factors_FD_);
    return dx_FD.to(x_dtype);
  }

 private:
  const LoraPair& lora_;
  at::Tensor x_FD_, factors_FD_, low_FR_;
};

// The losses [N] of the first N rows of logits_FV and, with `scale`, d loss / d logits in their place, 0 in other rows.
at::Tensor losses_by_kernel(const at::Tensor& logits_FV, const at::Tensor& targets_N, const float* scale) {
  const int64_t count = targets_N.size(0);
  const at::Tensor logits = logits_FV.narrow(0, 0, count), targets = targets_N.contiguous();
  const at::Tensor losses = at::empty({count}, logits.options().dtype(at::kFloat));
  for_row_stretches(logits, [&](int64_t row, int64_t rows) {
    kernels::cross_entropy(mutable_kernel_matrix(logits).from(row), targets.const_data_ptr<int64_t>() + row, rows,
                           logits.size(1), scale, losses.mutable_data_ptr<float>() + row);
  });
  if (scale) logits_FV.narrow(0, count, logits_FV.size(0) - count).zero_();
  return losses;
}

}  // namespace

at::Tensor head_logits(const at::Tensor& hidden_TD, const at::Tensor& head_VD, const LoraPair* lora) {
  at::NoGradGuard no_grad;
  const at::Tensor logits_TV = at::mm(hidden_TD, head_VD.t());
  return lora ? ChunkLora(*lora, hidden_TD, {}).add_to(logits_TV) : logits_TV;
}

LossResult chunked_cross_entropy(const at::Tensor& hidden_TD, const at::Tensor& head_VD, const at::Tensor& targets_T,
                                 WithGradient with_gradient, double loss_scale, const LoraPair* lora,
                                 int64_t chunk_rows) {
  at::NoGradGuard no_grad;
  const bool needs_gradient = with_gradient == WithGradient::kYes;
  const auto alignment = static_cast<uint64_t>(gemm_row_alignment(hidden_TD.device(), hidden_TD.scalar_type()));
  LossResult result;
  result.token_loss_T = at::zeros({hidden_TD.size(0)}, hidden_TD.options().dtype(at::kFloat));
  if (needs_gradient) result.grad_hidden_TD = at::zeros_like(hidden_TD);
  const at::Tensor rows = at::nonzero(targets_T.ne(-100)).squeeze(1);
  result.trained_tokens = rows.size(0);
  at::Tensor loss_sum = at::zeros({}, hidden_TD.options().dtype(at::kDouble));
  for (int64_t begin = 0; begin < rows.size(0); begin += chunk_rows) {
    const at::Tensor chunk = rows.narrow(0, begin, std::min(chunk_rows, rows.size(0) - begin));
    const at::Tensor target = targets_T.index_select(0, chunk).unsqueeze(1);
    const int64_t count = chunk.size(0), filled = static_cast<int64_t>(round_up(count, alignment));
    const at::Tensor x_FD = filled_up(hidden_TD.index_select(0, chunk), filled);
    at::Tensor logits_FV = product(x_FD, head_VD.t());
    std::optional<ChunkLora> adapter;
    if (lora) logits_FV = adapter.emplace(*lora, x_FD, chunk).add_to(logits_FV);
    const auto add_losses = [&](const at::Tensor& losses) {
      loss_sum += losses.sum(at::kDouble);
      result.token_loss_T.index_copy_(0, chunk, losses);
    };
    const auto add_gradient = [&](const at::Tensor& dlogits_FV) {
      at::Tensor grad_FD = product(dlogits_FV, head_VD);
      if (adapter) grad_FD = grad_FD + adapter->backward(dlogits_FV, grad_FD.scalar_type());
      result.grad_hidden_TD.index_copy_(0, chunk, grad_FD.narrow(0, 0, count));
    };
    if (runs_in_kernels(logits_FV)) {
      const auto scale = static_cast<float>(loss_scale);
      add_losses(losses_by_kernel(logits_FV, target.squeeze(1), needs_gradient ? &scale : nullptr));
      if (needs_gradient) add_gradient(logits_FV);
      continue;
    }
    logits_FV = logits_FV.to(at::kFloat);
    at::Tensor logits = logits_FV.narrow(0, 0, count);
    const at::Tensor log_sum = logits.logsumexp(-1, /*keepdim=*/true);
    const at::Tensor loss = (log_sum - logits.gather(1, target)).squeeze(1);
    add_losses(loss);
    if (!needs_gradient) continue;
    // d loss / d logits = softmax - one-hot
    logits.sub_(log_sum).exp_();
    logits.scatter_add_(1, target, at::full_like(loss, -1.0).unsqueeze(1));
    logits_FV.mul_(loss_scale).narrow(0, count, filled - count).zero_();
    add_gradient(logits_FV.to(head_VD.scalar_type()));
  }
  if (!loss_sum.is_meta()) result.loss_sum = loss_sum.item<double>();
  return result;
}

}  // namespace moraine
