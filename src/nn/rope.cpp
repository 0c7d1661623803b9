#include "nn/rope.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <numbers>

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

at::Tensor rope_frequencies(const RopeSpec& rope, at::Device device) {
  // The order of operations is transformers': exponent, power and reciprocal in fp32.
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  const double dim = static_cast<double>(rope.dim);
  const at::Tensor powers =
      at::pow(at::scalar_tensor(rope.rope_theta, options), at::arange(0, rope.dim, 2, options) / dim);
  if (!rope.yarn) return powers.reciprocal();
  // The pair that turns so many times in the original context.
  const auto pair_of = [&](double turns) {
    return dim * std::log(static_cast<double>(rope.original_max_position_embeddings) / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(rope.rope_theta));
  };
  const double first = pair_of(rope.beta_fast), last = pair_of(rope.beta_slow);
  const double low = std::max(rope.truncate ? std::floor(first) : first, 0.0);
  double high = std::min(rope.truncate ? std::ceil(last) : last, dim - 1);
  if (high == low) high += 0.001;
  const at::Tensor slowed = ((at::arange(rope.dim / 2, options) - low) / (high - low)).clamp(0, 1);
  const at::Tensor kept = 1 - slowed;
  return (powers * rope.factor).reciprocal() * (1 - kept) + powers.reciprocal() * kept;
}

RopeTable make_rope_table(const at::Tensor& position_ids_T, const RopeSpec& rope, at::ScalarType dtype) {
  const at::Tensor frequency = rope_frequencies(rope, position_ids_T.device());
  const at::Tensor angle = position_ids_T.to(at::kFloat).unsqueeze(1) * frequency.unsqueeze(0);
  const at::Tensor angle_TD = at::cat({angle, angle}, 1);
  const auto rounded = [&](const at::Tensor& x) { return (x * rope.attention_factor).to(dtype); };
  return {rounded(angle_TD.cos()), rounded(angle_TD.sin())};
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

at::Tensor pairs_to_halves(const at::Tensor& x_TND, int64_t dim) {
  const at::Tensor halves = x_TND.narrow(-1, 0, dim).unflatten(-1, {dim / 2, 2}).transpose(-1, -2).flatten(-2);
  const int64_t rest = x_TND.size(-1) - dim;
  return rest == 0 ? halves : at::cat({halves, x_TND.narrow(-1, dim, rest)}, -1);
}

}  // namespace moraine
