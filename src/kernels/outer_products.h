// Sums of outer products in fp64 on the CPU: one matrix is wide, the other as wide as a low rank.
#pragma once

#include <cstdint>

#include "kernels/matrix.h"

namespace moraine::kernels {

// Of the thin matrix's columns, and what their number is filled up to (with zeros).
inline constexpr int64_t kThinTile = 4;

// sum[t · thin_step + w · wide_step] += Σ over rows, in their order, of thin[row, t] · wide[row, w] for the columns w
// in [begin, end) and t < num_thin. `thin` [rows, num_thin filled up]. Single-threaded; columns may be shared out.
void add_outer_products(const Matrix& wide, const double* thin, int64_t rows, int64_t num_thin, int64_t begin,
                        int64_t end, double* sum, int64_t thin_step, int64_t wide_step);

}  // namespace moraine::kernels
