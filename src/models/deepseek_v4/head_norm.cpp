#include "models/deepseek_v4/head_norm.h"

#include <torch/csrc/autograd/custom_function.h>

#include "models/deepseek_v4/token_runs.h"

namespace moraine::deepseek_v4 {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class HeadNorm : public torch::autograd::Function<HeadNorm> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, double eps) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    at::Tensor y = at::empty(x.sizes(), x.options()),
               rstd_TN1 = at::empty({x.size(0), x.size(1), 1}, x.options().dtype(at::kFloat));
    for_each_run(x, [&](int64_t first, int64_t count) {
      const at::Tensor x32 = x.narrow(0, first, count).to(at::kFloat);
      const at::Tensor rstd = x32.square().mean(-1, /*keepdim=*/true).add_(eps).rsqrt_();
      rstd_TN1.narrow(0, first, count).copy_(rstd);
      y.narrow(0, first, count).copy_(x32 * rstd);
    });
    context->save_for_backward({x, rstd_TN1});
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &rstd_TN1 = saved[1];
    at::Tensor d_x = at::empty(x.sizes(), x.options());
    for_each_run(x, [&](int64_t first, int64_t count) {
      const at::Tensor rstd = rstd_TN1.narrow(0, first, count), d_y = grads[0].narrow(0, first, count).to(at::kFloat);
      const at::Tensor y = x.narrow(0, first, count).to(at::kFloat) * rstd;
      d_x.narrow(0, first, count).copy_((d_y - y * (d_y * y).mean(-1, /*keepdim=*/true)).mul_(rstd));
    });
    return {d_x, at::Tensor()};
  }
};

}  // namespace

at::Tensor head_norm(const at::Tensor& x_TND, double eps) { return HeadNorm::apply(x_TND, eps); }

}  // namespace moraine::deepseek_v4
