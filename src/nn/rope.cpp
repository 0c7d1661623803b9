#include "nn/rope.h"

#include <torch/csrc/autograd/custom_function.h>

#include "kernels/row_ops.h"
#include "tensor/kernel_matrix.h"

namespace moraine {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor turned_by_kernel(const at::Tensor& given_TND, const at::Tensor& cos_TD, const at::Tensor& sin_TD,
                            bool backward) {
  const at::Tensor x_TND = given_TND.stride(2) == 1 ? given_TND : given_TND.contiguous();
  const at::Tensor out_TND = at::empty(x_TND.sizes(), x_TND.options()), out_rows = out_TND.flatten(1);
  for_row_stretches(out_rows, [&](int64_t row, int64_t count) {
    const kernels::Matrix x{x_TND.const_data_ptr(), kernel_number(x_TND), x_TND.stride(0)};
    kernels::rope(x.from(row, 0), x_TND.stride(1), kernel_matrix(cos_TD).from(row, 0),
                  kernel_matrix(sin_TD).from(row, 0), count, x_TND.size(1), x_TND.size(2), cos_TD.size(1), backward,
                  mutable_kernel_matrix(out_rows).from(row));
  });
  return out_TND;
}

class Rope : public torch::autograd::Function<Rope> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_TND, const at::Tensor& cos_TD,
                            const at::Tensor& sin_TD) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({cos_TD, sin_TD});
    return turned_by_kernel(x_TND, cos_TD, sin_TD, /*backward=*/false);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const variable_list saved = context->get_saved_variables();
    return {turned_by_kernel(grads[0], saved[0], saved[1], /*backward=*/true), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

RopeTable make_rope_table(const at::Tensor& position_ids_T, int64_t head_dim, double theta, at::ScalarType dtype) {
  // The order of operations is transformers': exponent, power and reciprocal in fp32, then position × frequency.
  auto options = at::TensorOptions().dtype(at::kFloat).device(position_ids_T.device());
  at::Tensor exponent = at::arange(0, head_dim, 2, options) / static_cast<double>(head_dim);
  at::Tensor frequency = at::pow(at::scalar_tensor(theta, options), exponent).reciprocal();
  at::Tensor angle = position_ids_T.to(at::kFloat).unsqueeze(1) * frequency.unsqueeze(0);
  at::Tensor angle_TD = at::cat({angle, angle}, 1);
  return {angle_TD.cos().to(dtype), angle_TD.sin().to(dtype)};
}

at::Tensor apply_rope(const at::Tensor& x_TND, const RopeTable& table) {
  if (runs_in_kernels(x_TND) && table.cos_TD.scalar_type() == x_TND.scalar_type())
    return Rope::apply(x_TND, table.cos_TD, table.sin_TD);
  const int64_t turned = table.cos_TD.size(1), rest = x_TND.size(2) - turned;
  if (rest > 0) return at::cat({apply_rope(x_TND.narrow(2, 0, turned), table), x_TND.narrow(2, turned, rest)}, -1);
  std::vector<at::Tensor> halves = x_TND.chunk(2, -1);
  at::Tensor rotated = at::cat({-halves[1], halves[0]}, -1);
  return x_TND * table.cos_TD.unsqueeze(1) + rotated * table.sin_TD.unsqueeze(1);
}

}  // namespace moraine
