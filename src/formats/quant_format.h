// How a quantised matrix is stored: codes, and a scale for each block of its elements. value = code · scale.
#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "formats/dtype.h"

namespace moraine {

// How many blocks of `block` cover `length`.
constexpr int64_t blocks_in(int64_t length, int64_t block) { return (length + block - 1) / block; }

// The columns of the matrices whose codes are stored with this shape: [rows, columns], or, of MXFP4, [experts, rows,
// blocks, bytes of a block].
inline int64_t stored_columns_of(const std::vector<int64_t>& shape) {
  return shape.size() == 4 ? shape[2] * shape[3] : shape.back();
}
// What scales are that files call `stored`: MXFP4's are the bits of E8M0 in U8.
constexpr DType scale_dtype_of(DType stored) { return stored == DType::kU8 ? DType::kF8E8M0 : stored; }

struct QuantFormat {
  DType codes =
      DType::kF8E4M3;  // kF8E4M3, one byte each; kI8: FP4 (E2M1), two per byte, the even column in the low nibble
  DType scales = DType::kF32;  // kF8E8M0, kF32 or kBF16
  // Elements that share a scale. The last block of a row or column of blocks may be cut off. FP4: block_columns is
  // even.
  int64_t block_rows = 128, block_columns = 128;

  static constexpr QuantFormat fp4(DType scales) { return {DType::kI8, scales, 1, 32}; }

  bool is_fp4() const { return codes == DType::kI8; }
  int64_t per_stored() const { return is_fp4() ? 2 : 1; }  // elements in a stored one
  int64_t stored_columns(int64_t columns) const { return columns / per_stored(); }
  int64_t scale_rows(int64_t rows) const { return blocks_in(rows, block_rows); }
  int64_t scale_columns(int64_t columns) const { return blocks_in(columns, block_columns); }
  // Of the scales of codes stored as a matrix of shape `stored`.
  std::vector<int64_t> scale_shape(const std::vector<int64_t>& stored) const {
    return {scale_rows(stored[0]), scale_columns(stored[1] * per_stored())};
  }

  friend auto operator<=>(const QuantFormat&, const QuantFormat&) = default;
};

}  // namespace moraine
