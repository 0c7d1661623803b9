#include "models/deepseek_v4/rope.h"

#include <torch/csrc/autograd/custom_function.h>

#include "models/deepseek_v4/token_runs.h"

namespace moraine::deepseek_v4 {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor turned(const at::Tensor& x, const at::Tensor& turn_TP) {
  const int64_t pairs = turn_TP.size(1), rest = x.size(-1) - 2 * pairs;
  at::Tensor out = at::empty(x.sizes(), x.options());
  for_each_run(x, [&](int64_t first, int64_t count) {
    const at::Tensor from = x.narrow(0, first, count), turn = turn_TP.narrow(0, first, count);
    at::Tensor to = out.narrow(0, first, count);
    to.narrow(-1, 0, rest).copy_(from.narrow(-1, 0, rest));
    const at::Tensor tail = from.narrow(-1, rest, 2 * pairs).to(at::kFloat).contiguous().unflatten(-1, {pairs, 2});
    const at::Tensor turned = at::view_as_complex(tail) * (x.dim() == 3 ? turn.unsqueeze(1) : turn);
    to.narrow(-1, rest, 2 * pairs).copy_(at::view_as_real(turned).flatten(-2));
  });
  return out;
}

class Rotate : public torch::autograd::Function<Rotate> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& turn_TP) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({turn_TP});
    return turned(x, turn_TP);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor turn_TP = context->get_saved_variables()[0];
    return {turned(grads[0], turn_TP.conj().resolve_conj()), at::Tensor()};
  }
};

}  // namespace

Rotation make_rotation(const at::Tensor& position_ids_T, const RopeSpec& rope, at::ScalarType dtype) {
  const at::Tensor angle =
      position_ids_T.to(at::kFloat).unsqueeze(1) * rope_frequencies(rope, position_ids_T.device()).unsqueeze(0);
  const auto rounded = [&](const at::Tensor& x) { return (x * rope.attention_factor).to(dtype).to(at::kFloat); };
  return {at::complex(rounded(angle.cos()), rounded(angle.sin()))};
}

at::Tensor rotate(const at::Tensor& x, const Rotation& rotation, Turn turn) {
  return Rotate::apply(x, turn == Turn::kForward ? rotation.turn_TP : rotation.turn_TP.conj().resolve_conj());
}

}  // namespace moraine::deepseek_v4
