#include "nn/causal_conv.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "base/error.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::ScalarType sum_dtype(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

enum class Direction { kFromThePast, kFromTheFuture };

// Σ over lags of filter[W - 1 - lag] · x[t - lag] within each sequence, or, for the gradient, of x[t + lag]. A product
// for each lag over all channels at once.
at::Tensor convolve(const at::Tensor& x_TC, const at::Tensor& filter_WC, const std::vector<int64_t>& cu_seqlens,
                    Direction direction) {
  const int64_t width = filter_WC.size(0);
  at::Tensor y_TC = x_TC * filter_WC[width - 1];
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    const int64_t begin = cu_seqlens[s], length = cu_seqlens[s + 1] - begin;
    for (int64_t lag = 1; lag < std::min(width, length); ++lag) {
      const at::Tensor early = y_TC.narrow(0, begin, length - lag), late = y_TC.narrow(0, begin + lag, length - lag);
      if (direction == Direction::kFromThePast) {
        late.addcmul_(x_TC.narrow(0, begin, length - lag), filter_WC[width - 1 - lag]);
      } else {
        early.addcmul_(x_TC.narrow(0, begin + lag, length - lag), filter_WC[width - 1 - lag]);
      }
    }
  }
  return y_TC;
}

// Keeps only its input for the backward pass.
class CausalConvSilu : public torch::autograd::Function<CausalConvSilu> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_TC, const at::Tensor& weight_CW,
                            std::vector<int64_t> cu_seqlens) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({x_TC, weight_CW});
    context->saved_data["cu_seqlens"] = cu_seqlens;
    at::Tensor y_TC = before_silu(x_TC, weight_CW, cu_seqlens);
    return at::silu_(y_TC);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x_TC = saved[0], &weight_CW = saved[1];
    const std::vector<int64_t> cu_seqlens = context->saved_data["cu_seqlens"].toIntVector();
    const at::ScalarType dtype = sum_dtype(x_TC);
    const at::Tensor y_TC = before_silu(x_TC, weight_CW, cu_seqlens);
    const at::Tensor dy_TC = at::silu_backward(grads[0].to(dtype), y_TC.to(dtype));
    const at::Tensor dx_TC =
        convolve(dy_TC, weight_CW.t().to(dtype).contiguous(), cu_seqlens, Direction::kFromTheFuture);
    return {dx_TC.to(x_TC.scalar_type()), at::Tensor(), at::Tensor()};
  }

  static at::Tensor before_silu(const at::Tensor& x_TC, const at::Tensor& weight_CW,
                                const std::vector<int64_t>& cu_seqlens) {
    const at::ScalarType dtype = sum_dtype(x_TC);
    return convolve(x_TC.to(dtype), weight_CW.t().to(dtype).contiguous(), cu_seqlens, Direction::kFromThePast)
        .to(x_TC.scalar_type());
  }
};

}  // namespace

at::Tensor causal_conv_silu(const at::Tensor& x_TC, const at::Tensor& weight_CW, const std::vector<int64_t>& cu_seqlens,
                            at::Tensor* tail_PC) {
  if (!tail_PC) return CausalConvSilu::apply(x_TC, weight_CW, cu_seqlens);
  MORAINE_ASSERT(cu_seqlens.size() == 2, "a cache serves one sequence");
  const int64_t before = weight_CW.size(1) - 1, tokens = x_TC.size(0);
  const at::Tensor tail = tail_PC->defined() ? *tail_PC : at::zeros({before, x_TC.size(1)}, x_TC.options());
  const at::Tensor inputs = at::cat({tail, x_TC});
  *tail_PC = inputs.narrow(0, tokens, before).clone();
  return at::silu(CausalConvSilu::before_silu(inputs, weight_CW, {0, before + tokens}).narrow(0, before, tokens));
}

}  // namespace moraine
