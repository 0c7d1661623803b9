#include "nn/swiglu.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <utility>

#include "kernels/row_ops.h"
#include "tensor/kernel_matrix.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The halves of the input as they are multiplied.
struct Halves {
  at::Tensor gate, up;

  Halves(const at::Tensor& gate_up, double limit) {
    const int64_t width = gate_up.size(-1) / 2;
    gate = gate_up.narrow(-1, 0, width);
    up = gate_up.narrow(-1, width, width);
    if (!std::isfinite(limit)) return;
    gate = gate.clamp_max(limit);
    up = up.clamp(-limit, limit);
  }
};

// Keeps only its input for the backward pass.
class SwiGlu : public torch::autograd::Function<SwiGlu> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_up, double limit) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({gate_up});
    context->saved_data["limit"] = limit;
    if (runs_in_kernels(gate_up)) {
      const at::Tensor rows = as_rows(gate_up);
      std::vector<int64_t> shape = gate_up.sizes().vec();
      shape.back() /= 2;
      const at::Tensor out = at::empty(shape, gate_up.options()), out_rows = as_rows(out);
      for_row_stretches(rows, [&](int64_t row, int64_t count) {
        kernels::swiglu(kernel_matrix(rows).from(row, 0), count, shape.back(), static_cast<float>(limit),
                        mutable_kernel_matrix(out_rows).from(row));
      });
      return out;
    }
    const Halves x(gate_up, limit);
    return at::silu(x.gate).mul_(x.up);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor gate_up = context->get_saved_variables()[0];
    const double limit = context->saved_data["limit"].toDouble();
    const int64_t width = gate_up.size(-1) / 2;
    if (runs_in_kernels(gate_up)) {
      const at::Tensor rows = as_rows(gate_up), dy = as_rows(grads[0]);
      const at::Tensor dx = at::empty(gate_up.sizes(), gate_up.options()), dx_rows = as_rows(dx);
      for_row_stretches(rows, [&](int64_t row, int64_t count) {
        kernels::swiglu_backward(kernel_matrix(dy).from(row, 0), kernel_matrix(rows).from(row, 0), count, width,
                                 static_cast<float>(limit), mutable_kernel_matrix(dx_rows).from(row));
      });
      return {dx, at::Tensor()};
    }
    const Halves x(gate_up, limit);
    at::Tensor d_gate_up = at::empty_like(gate_up);
    at::Tensor d_gate = d_gate_up.narrow(-1, 0, width), d_up = d_gate_up.narrow(-1, width, width);
    at::mul_out(d_up, grads[0], at::silu(x.gate));
    d_gate.copy_(at::silu_backward(grads[0] * x.up, x.gate));
    if (std::isfinite(limit)) {  // no gradient through what was clamped
      d_gate.masked_fill_(gate_up.narrow(-1, 0, width).gt(limit), 0);
      d_up.masked_fill_(gate_up.narrow(-1, width, width).abs().gt(limit), 0);
    }
    return {d_gate_up, at::Tensor()};
  }
};

// Keeps only its input for the backward pass.
class ClampedSwiGlu : public torch::autograd::Function<ClampedSwiGlu> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_up, double limit) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({gate_up});
    context->saved_data["limit"] = limit;
    if (runs_in_kernels(gate_up)) {
      const at::Tensor rows = as_rows(gate_up);
      std::vector<int64_t> shape = gate_up.sizes().vec();
      shape.back() /= 2;
      const at::Tensor out = at::empty(shape, gate_up.options()), out_rows = as_rows(out);
      for_row_stretches(rows, [&](int64_t row, int64_t count) {
        kernels::clamped_swiglu(kernel_matrix(rows).from(row, 0), count, shape.back(), static_cast<float>(limit),
                                mutable_kernel_matrix(out_rows).from(row));
      });
      return out;
    }
    const auto [gate, up] = pairs(gate_up);
    const at::Tensor clamped = gate.clamp_max(limit);
    return up.clamp(-limit, limit).add_(1).mul_(clamped * (clamped * kSteepness).sigmoid_());
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor gate_up = context->get_saved_variables()[0];
    const double limit = context->saved_data["limit"].toDouble();
    if (runs_in_kernels(gate_up)) {
      const at::Tensor rows = as_rows(gate_up), dy = as_rows(grads[0]);
      const at::Tensor dx = at::empty(gate_up.sizes(), gate_up.options()), dx_rows = as_rows(dx);
      for_row_stretches(rows, [&](int64_t row, int64_t count) {
        kernels::clamped_swiglu_backward(kernel_matrix(dy).from(row, 0), kernel_matrix(rows).from(row, 0), count,
                                         gate_up.size(-1) / 2, static_cast<float>(limit),
                                         mutable_kernel_matrix(dx_rows).from(row));
      });
      return {dx, at::Tensor()};
    }
    const auto [gate, up] = pairs(gate_up);
    const at::Tensor clamped = gate.clamp_max(limit), s = (clamped * kSteepness).sigmoid_();
    at::Tensor d_gate_up = at::empty_like(gate_up);
    auto [d_gate, d_up] = pairs(d_gate_up);
    at::mul_out(d_up, grads[0], clamped * s);
    d_up.masked_fill_(up.abs().gt(limit), 0);  // no gradient through what was clamped
    at::mul_out(d_gate, grads[0] * (up.clamp(-limit, limit) + 1), s * (1 + kSteepness * clamped * (1 - s)));
    d_gate.masked_fill_(gate.gt(limit), 0);
    return {d_gate_up, at::Tensor()};
  }

 private:
  static constexpr double kSteepness = 1.702;

  // The even columns and the odd ones, as views.
  static std::pair<at::Tensor, at::Tensor> pairs(const at::Tensor& x) {
    const at::Tensor by_pair = x.unflatten(-1, {x.size(-1) / 2, 2});
    return {by_pair.select(-1, 0), by_pair.select(-1, 1)};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up, double limit) { return SwiGlu::apply(gate_up, limit); }

at::Tensor clamped_swiglu(const at::Tensor& gate_up, double limit) { return ClampedSwiGlu::apply(gate_up, limit); }

}  // namespace moraine
