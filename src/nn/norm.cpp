#include "nn/norm.h"

#include <torch/csrc/autograd/custom_function.h>

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps) {
    at::AutoDispatchBelowAutograd below_autograd;
    at::Tensor x32 = x.to(at::kFloat);
    at::Tensor rstd = x32.square().mean(-1, /*keepdim=*/true).add_(eps).rsqrt_();
    context->save_for_backward({x, weight, rstd});
    return (x32 * rstd).to(x.scalar_type()).mul_(weight);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowAutograd below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &rstd = saved[2];
    at::Tensor g = grads[0].to(at::kFloat) * weight.to(at::kFloat);
    at::Tensor normed = x.to(at::kFloat) * rstd;
    at::Tensor dot = (g * normed).mean(-1, /*keepdim=*/true);
    return {g.sub_(normed.mul_(dot)).mul_(rstd).to(x.scalar_type()), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight_D, double eps) {
  return RmsNorm::apply(x, weight_D, eps);
}

}  // namespace moraine
