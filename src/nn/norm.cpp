#include "nn/norm.h"

#include <torch/csrc/autograd/custom_function.h>

#include "kernels/row_ops.h"
#include "tensor/kernel_matrix.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// How the normed row is multiplied.
enum class Weighting {
  kAfterRounding,  // rounded, then · weight
  kRoundedOnce,    // · weight
  kZeroCentered,   // · (1 + weight)
};

at::Tensor inverse_rms(const at::Tensor& x32, double eps) {
  return x32.square().mean(-1, /*keepdim=*/true).add_(eps).rsqrt_();
}

// d loss / d x from g = d loss / d (x·rstd), both fp32; g is overwritten.
at::Tensor backward_of_normed(at::Tensor g, const at::Tensor& x32, const at::Tensor& rstd) {
  at::Tensor normed = x32 * rstd;
  const at::Tensor dot = (g * normed).mean(-1, /*keepdim=*/true);
  return g.sub_(normed.mul_(dot)).mul_(rstd);
}

// What a row is multiplied with.
at::Tensor factors_of(const at::Tensor& weight, Weighting weighting) {
  const at::Tensor weight32 = weight.to(at::kFloat).contiguous();
  return weighting == Weighting::kZeroCentered ? weight32 + 1.0 : weight32;
}

class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps,
                            Weighting weighting) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->saved_data["weighting"] = static_cast<int64_t>(weighting);
    if (runs_in_kernels(x)) {
      const at::Tensor rows = as_rows(x), factors = factors_of(weight, weighting);
      const at::Tensor out = at::empty(x.sizes(), x.options()), out_rows = as_rows(out);
      const at::Tensor rstd = at::empty({rows.size(0)}, factors.options());
      for_row_stretches(rows, [&](int64_t row, int64_t count) {
        kernels::rms_norm(kernel_matrix(rows).from(row, 0), count, rows.size(1), static_cast<float>(eps),
                          {factors.const_data_ptr<float>(), weighting == Weighting::kAfterRounding},
                          mutable_kernel_matrix(out_rows).from(row), rstd.mutable_data_ptr<float>() + row);
      });
      context->save_for_backward({x, weight, rstd});
      return out;
    }
    at::Tensor x32 = x.to(at::kFloat);
    at::Tensor rstd = inverse_rms(x32, eps);
    context->save_for_backward({x, weight, rstd});
    at::Tensor normed = x32 * rstd;
    if (weighting == Weighting::kAfterRounding) return normed.to(x.scalar_type()).mul_(weight);
    return normed.mul_(factors_of(weight, weighting)).to(x.scalar_type());
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &rstd = saved[2];
    const at::Tensor factors = factors_of(weight, static_cast<Weighting>(context->saved_data["weighting"].toInt()));
    if (runs_in_kernels(x)) {
      const at::Tensor rows = as_rows(x), dy = as_rows(grads[0].to(x.scalar_type()));
      const at::Tensor dx = at::empty(x.sizes(), x.options()), dx_rows = as_rows(dx);
      for_row_stretches(rows, [&](int64_t row, int64_t count) {
        kernels::rms_norm_backward(kernel_matrix(dy).from(row, 0), kernel_matrix(rows).from(row, 0), count,
                                   rows.size(1), factors.const_data_ptr<float>(), rstd.const_data_ptr<float>() + row,
                                   mutable_kernel_matrix(dx_rows).from(row));
      });
      return {dx, at::Tensor(), at::Tensor(), at::Tensor()};
    }
    at::Tensor g = grads[0].to(at::kFloat) * factors;
    return {backward_of_normed(g, x.to(at::kFloat), rstd).to(x.scalar_type()), at::Tensor(), at::Tensor(),
            at::Tensor()};
  }
};

// Keeps its inputs for the backward pass, and one number per row.
class GatedRmsNorm : public torch::autograd::Function<GatedRmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& gate,
                            const at::Tensor& weight, double eps) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor x32 = x.to(at::kFloat), rstd = inverse_rms(x32, eps);
    context->save_for_backward({x, gate, weight, rstd});
    const at::Tensor normed = (x32 * rstd).to(x.scalar_type()).mul_(weight);
    return at::silu(gate.to(at::kFloat)).mul_(normed).to(x.scalar_type());
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &gate = saved[1], &weight = saved[2], &rstd = saved[3];
    const at::Tensor x32 = x.to(at::kFloat), gate32 = gate.to(at::kFloat), g = grads[0].to(at::kFloat);
    const at::Tensor normed = (x32 * rstd).to(x.scalar_type()).mul_(weight);
    const at::Tensor d_gate = at::silu_backward(g * normed, gate32);
    const at::Tensor d_normed = at::silu(gate32).mul_(g).mul_(weight.to(at::kFloat));
    return {backward_of_normed(d_normed, x32, rstd).to(x.scalar_type()), d_gate.to(gate.scalar_type()), at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight_D, double eps) {
  return RmsNorm::apply(x, weight_D, eps, Weighting::kAfterRounding);
}

at::Tensor rms_norm_rounded_once(const at::Tensor& x, const at::Tensor& weight_D, double eps) {
  return RmsNorm::apply(x, weight_D, eps, Weighting::kRoundedOnce);
}

at::Tensor rms_norm_zero_centered(const at::Tensor& x, const at::Tensor& weight_D, double eps) {
  return RmsNorm::apply(x, weight_D, eps, Weighting::kZeroCentered);
}

at::Tensor gated_rms_norm(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& weight_D, double eps) {
  return GatedRmsNorm::apply(x, gate, weight_D, eps);
}

}  // namespace moraine
