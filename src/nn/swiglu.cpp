#include "nn/swiglu.h"

#include <torch/csrc/autograd/custom_function.h>

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Keeps only its input for the backward pass.
class SwiGlu : public torch::autograd::Function<SwiGlu> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_up) {
    at::AutoDispatchBelowAutograd below_autograd;
    context->save_for_backward({gate_up});
    const int64_t width = gate_up.size(-1) / 2;
    return at::silu(gate_up.narrow(-1, 0, width)).mul_(gate_up.narrow(-1, width, width));
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowAutograd below_autograd;
    const at::Tensor gate_up = context->get_saved_variables()[0];
    const int64_t width = gate_up.size(-1) / 2;
    at::Tensor gate = gate_up.narrow(-1, 0, width), up = gate_up.narrow(-1, width, width);
    at::Tensor d_gate_up = at::empty_like(gate_up);
    at::Tensor d_gate = d_gate_up.narrow(-1, 0, width), d_up = d_gate_up.narrow(-1, width, width);
    at::mul_out(d_up, grads[0], at::silu(gate));
    d_gate.copy_(at::silu_backward(grads[0] * up, gate));
    return {d_gate_up};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up) { return SwiGlu::apply(gate_up); }

}  // namespace moraine
