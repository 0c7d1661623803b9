#include "kernels/outer_products.h"

#include <algorithm>

#include "base/cpu_features.h"
#include "kernels/simd.h"

namespace moraine::kernels {
namespace {

// Lanes columns in two registers of fp64, and Thin rows of sums of them.
template <int Lanes, int Thin, typename T>
MORAINE_INLINE void add_tile(const T* wide, int64_t row_stride, int64_t columns, const double* thin,
                             int64_t thin_stride, int64_t rows, double (*sums)[Lanes]) {
  using Double = typename Vectors<Lanes>::Double;
  using Narrow = typename Vectors<Lanes>::HalfFloat;
  Double sum[Thin][2] = {};
  for (int64_t row = 0; row < rows; ++row, wide += row_stride, thin += thin_stride) {
    float x[Lanes];
    if (columns >= Lanes) {
      store(x, load_floats<Lanes>(wide));
    } else {
      for (int64_t i = 0; i < Lanes; ++i) x[i] = i < columns ? to_float(wide[i]) : 0;
    }
    const Double first = __builtin_convertvector(load<Narrow>(x), Double);
    const Double second = __builtin_convertvector(load<Narrow>(x + Lanes / 2), Double);
#pragma GCC unroll 8
    for (int t = 0; t < Thin; ++t) {
      sum[t][0] += thin[t] * first;
      sum[t][1] += thin[t] * second;
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < Thin; ++t) {
    store(sums[t], sum[t][0]);
    store(sums[t] + Lanes / 2, sum[t][1]);
  }
}

template <int Lanes, typename T>
MORAINE_INLINE void add_columns(const Matrix& wide, const double* thin, int64_t rows, int64_t num_thin, int64_t begin,
                                int64_t end, double* sum, int64_t thin_step, int64_t wide_step) {
  const int64_t thin_stride = (num_thin + kThinTile - 1) / kThinTile * kThinTile;
  for (int64_t w = begin; w < end; w += Lanes) {
    const T* from = static_cast<const T*>(wide.data) + w;
    const int64_t columns = std::min<int64_t>(Lanes, end - w);
    for (int64_t t = 0; t < thin_stride;) {
      double sums[8][Lanes];
      const int64_t count = Lanes == 16 && thin_stride - t >= 8 ? 8 : 4;
      if constexpr (Lanes == 16) {  // 16 sums of 32 registers
        if (count == 8) add_tile<Lanes, 8>(from, wide.row_stride, columns, thin + t, thin_stride, rows, sums);
      }
      if (count == 4) add_tile<Lanes, 4>(from, wide.row_stride, columns, thin + t, thin_stride, rows, sums);
      for (int64_t i = 0; i < std::min(count, num_thin - t); ++i)
        for (int64_t c = 0; c < columns; ++c) sum[(t + i) * thin_step + (w + c) * wide_step] += sums[i][c];
      t += count;
    }
  }
}

template <int Lanes>
MORAINE_INLINE void add_outer_products_for(const Matrix& wide, const double* thin, int64_t rows, int64_t num_thin,
                                           int64_t begin, int64_t end, double* sum, int64_t thin_step,
                                           int64_t wide_step) {
  if (wide.number == Number::kBF16)
    add_columns<Lanes, BFloat16>(wide, thin, rows, num_thin, begin, end, sum, thin_step, wide_step);
  else
    add_columns<Lanes, float>(wide, thin, rows, num_thin, begin, end, sum, thin_step, wide_step);
}

}  // namespace

MORAINE_FOR_EACH_ISA(add_outer_products,
                     (const Matrix& wide, const double* thin, int64_t rows, int64_t num_thin, int64_t begin,
                      int64_t end, double* sum, int64_t thin_step, int64_t wide_step),
                     (wide, thin, rows, num_thin, begin, end, sum, thin_step, wide_step))

}  // namespace moraine::kernels
