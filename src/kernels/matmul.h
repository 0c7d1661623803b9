// Matrix products on the CPU with sums in fp32, made for one matrix in bf16 that never changes and few rows of the
// other: weights are converted tile by tile on their way into the cache, never as a whole. Every element is one sum in
// rising order of its summands, whatever shares the call and however wide the processor's registers are: so a row has
// the same bits in every batch, on every mesh and on every processor with fused multiply-add.
//
// Blocking after Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3), 2008.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/matrix.h"

namespace moraine::kernels {

// Of the packed left matrix and of the columns that one call computes at a time.
inline constexpr int64_t kRowTile = 12, kColumnTile = 32;

constexpr int64_t row_tiles(int64_t rows) { return (rows + kRowTile - 1) / kRowTile; }
constexpr int64_t column_tiles(int64_t columns) { return (columns + kColumnTile - 1) / kColumnTile; }
// Floats that pack_rows writes.
constexpr int64_t packed_size(int64_t rows, int64_t columns) { return row_tiles(rows) * kRowTile * columns; }

// Tiles of kRowTile rows of scale · x, in fp32, column by column; the last tile is filled up with zeros.
void pack_rows(const Matrix& x, int64_t rows, int64_t columns, float scale, float* packed);

// One product of a sum of them: packed rows [rows, summands] times w.
struct Term {
  const float* packed = nullptr;
  int64_t summands = 0;
  Matrix w;                       // [summands, columns], or [columns, summands]
  bool rows_are_columns = false;  // the latter
  // The terms before are first rounded to the number of the output, as when each had an operator of its own.
  bool adds_to_rounded = false;
};

// out[:, columns of the tiles first_tile .. end_tile) = the sum of the terms, rounded. Of row tiles alike: out and
// the packed rows begin with the first. Single-threaded; tiles may be computed side by side.
void multiply(std::span<const Term> terms, int64_t rows, int64_t columns, int64_t first_tile, int64_t end_tile,
              const MutableMatrix& out);

}  // namespace moraine::kernels
