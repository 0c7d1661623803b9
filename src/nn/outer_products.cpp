#include "nn/outer_products.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "kernels/outer_products.h"
#include "tensor/execution_device.h"
#include "tensor/kernel_matrix.h"

namespace moraine {
namespace {

constexpr int64_t kColumnsAtOnce = 64;

void add_on_cpu(const at::Tensor& sum_PQ, const at::Tensor& left, const at::Tensor& right, double scaling) {
  const int64_t P = sum_PQ.size(0), Q = sum_PQ.size(1), rows = left.size(0);
  const bool left_is_thin = P < Q;
  const at::Tensor &thin = left_is_thin ? left : right, &wide = left_is_thin ? right : left;
  const int64_t num_thin = thin.size(1), width = wide.size(1);
  const auto filled = static_cast<int64_t>(round_up(num_thin, kernels::kThinTile));
  std::vector<double> scaled(rows * filled, 0.0);
  at::from_blob(scaled.data(), {rows, num_thin}, {filled, 1}, at::kDouble).copy_(thin).mul_(scaling);
  double* sum = sum_PQ.mutable_data_ptr<double>();
  const int64_t thin_step = left_is_thin ? Q : 1, wide_step = left_is_thin ? 1 : Q;
  at::parallel_for(0, (width + kColumnsAtOnce - 1) / kColumnsAtOnce, 1, [&](int64_t first, int64_t last) {
    kernels::add_outer_products(kernel_matrix(wide), scaled.data(), rows, num_thin, first * kColumnsAtOnce,
                                std::min(width, last * kColumnsAtOnce), sum, thin_step, wide_step);
  });
}

}  // namespace

void add_outer_products(at::Tensor sum_PQ, const at::Tensor& left_RP, const at::Tensor& right_RQ, double scaling) {
  const auto known = [](const at::Tensor& x) {
    return x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
  };
  const bool on_cpu = execution_device(sum_PQ.device()).is_cpu();
  if (on_cpu && sum_PQ.scalar_type() == at::kDouble && known(left_RP) && known(right_RQ)) {
    MORAINE_ASSERT(sum_PQ.is_contiguous() && left_RP.is_contiguous() && right_RQ.is_contiguous(),
                   "factors lie row by row");
    if (!sum_PQ.is_meta()) add_on_cpu(sum_PQ, left_RP, right_RQ, scaling);
  } else {
    sum_PQ.addmm_(left_RP.to(sum_PQ.scalar_type()).t(), right_RQ.to(sum_PQ.scalar_type()), 1.0, scaling);
  }
}

}  // namespace moraine
