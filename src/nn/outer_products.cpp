#include "nn/outer_products.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "base/error.h"
#include "tensor/execution_device.h"

// The loop below with vectors, compiled for several instruction sets; which, is chosen when the program starts.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MORAINE_VECTORIZED __attribute__((optimize("O3"), target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MORAINE_VECTORIZED
#endif

namespace moraine {
namespace {

// Tiles that stay in the first-level cache: columns of the wide factor, columns of the thin one, rows.
constexpr int64_t kWide = 64, kThin = 16, kRows = 4;

using Rows = std::array<std::array<double, kWide>, kRows>;
using Sums = std::array<std::array<double, kWide>, kThin>;

void convert(const float* from, int64_t n, std::array<double, kWide>& to) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
void convert(const c10::BFloat16* from, int64_t n, std::array<double, kWide>& to) {
  for (int64_t i = 0; i < n; ++i) to[i] = std::bit_cast<float>(static_cast<uint32_t>(from[i].x) << 16);
}

// sums[t][w] += Σ over the four rows of thin[row][t] · wide[row][w]
MORAINE_VECTORIZED void add_tile(const Rows& wide, const double* thin, int64_t thin_stride, int64_t num_thin,
                                 Sums& sums) {
  for (int64_t t = 0; t < num_thin; ++t) {
    const double t0 = thin[t], t1 = thin[thin_stride + t], t2 = thin[2 * thin_stride + t],
                 t3 = thin[3 * thin_stride + t];
    double* sum = sums[t].data();
    for (int64_t w = 0; w < kWide; ++w)
      sum[w] += (t0 * wide[0][w] + t1 * wide[1][w]) + (t2 * wide[2][w] + t3 * wide[3][w]);
  }
}

// sum[t · thin_step + w · wide_step] += Σ over rows of thin[row][t] · wide[row][w], for columns w in [begin, end).
// `thin` is filled up with zero rows to a multiple of kRows.
template <typename T>
void add_columns(const T* wide, int64_t rows, int64_t width, int64_t begin, int64_t end,
                 const std::vector<double>& thin, int64_t num_thin, double* sum, int64_t thin_step, int64_t wide_step) {
  for (int64_t w0 = begin; w0 < end; w0 += kWide) {
    const int64_t n = std::min(kWide, end - w0);
    for (int64_t t0 = 0; t0 < num_thin; t0 += kThin) {
      const int64_t num = std::min(kThin, num_thin - t0);
      Sums sums{};
      Rows tile{};
      for (int64_t row = 0; row < rows; row += kRows) {
        for (int64_t i = 0; i < std::min(kRows, rows - row); ++i) convert(wide + (row + i) * width + w0, n, tile[i]);
        add_tile(tile, thin.data() + row * num_thin + t0, num_thin, num, sums);
      }
      for (int64_t t = 0; t < num; ++t)
        for (int64_t w = 0; w < n; ++w) sum[(t0 + t) * thin_step + (w0 + w) * wide_step] += sums[t][w];
    }
  }
}

void add_on_cpu(const at::Tensor& sum_PQ, const at::Tensor& left, const at::Tensor& right, double scaling) {
  const int64_t P = sum_PQ.size(0), Q = sum_PQ.size(1), rows = left.size(0);
  const bool left_is_thin = P < Q;
  const at::Tensor &thin = left_is_thin ? left : right, &wide = left_is_thin ? right : left;
  const int64_t num_thin = thin.size(1), width = wide.size(1);
  std::vector<double> scaled((rows + kRows - 1) / kRows * kRows * num_thin, 0.0);
  at::from_blob(scaled.data(), {rows, num_thin}, at::kDouble).copy_(thin).mul_(scaling);
  double* sum = sum_PQ.mutable_data_ptr<double>();
  const int64_t thin_step = left_is_thin ? Q : 1, wide_step = left_is_thin ? 1 : Q;
  const int64_t tiles = (width + kWide - 1) / kWide;
  at::parallel_for(0, tiles, 1, [&](int64_t first, int64_t last) {
    const int64_t begin = first * kWide, end = std::min(width, last * kWide);
    if (wide.scalar_type() == at::kFloat) {
      add_columns(wide.const_data_ptr<float>(), rows, width, begin, end, scaled, num_thin, sum, thin_step, wide_step);
    } else {
      add_columns(wide.const_data_ptr<c10::BFloat16>(), rows, width, begin, end, scaled, num_thin, sum, thin_step,
                  wide_step);
    }
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
