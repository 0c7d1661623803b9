#include "nn/rope.h"

namespace moraine {

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
  const int64_t turned = table.cos_TD.size(1), rest = x_TND.size(2) - turned;
  if (rest > 0) return at::cat({apply_rope(x_TND.narrow(2, 0, turned), table), x_TND.narrow(2, turned, rest)}, -1);
  std::vector<at::Tensor> halves = x_TND.chunk(2, -1);
  at::Tensor rotated = at::cat({-halves[1], halves[0]}, -1);
  return x_TND * table.cos_TD.unsqueeze(1) + rotated * table.sin_TD.unsqueeze(1);
}

}  // namespace moraine
