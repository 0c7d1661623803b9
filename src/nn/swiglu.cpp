#include "nn/swiglu.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

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
    const Halves x(gate_up, limit);
    return at::silu(x.gate).mul_(x.up);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor gate_up = context->get_saved_variables()[0];
    const double limit = context->saved_data["limit"].toDouble();
    const int64_t width = gate_up.size(-1) / 2;
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

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up, double limit) { return SwiGlu::apply(gate_up, limit); }

}  // namespace moraine
