// code · scale for a run of a quantised matrix's elements.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace moraine {

enum class Codes {
  kFp8,  // E4M3, a byte each
  kFp4,  // E2M1, two a byte, the even column in the low nibble
};

// E2M1: a sign, two bits of exponent, one of mantissa.
inline constexpr float kFp4Values[16] = {0.f, .5f, 1.f, 1.5f, 2.f, 3.f, 4.f, 6.f, -0.f, -.5f, -1.f, -1.5f, -2.f, -3.f, -4.f, -6.f};

// A matrix whose blocks of block_rows × block_columns elements share a factor; the last of a row or column of blocks may be cut off.
// FP4: block_columns is even and divides columns.
struct ScaleGrid {
  int64_t columns;        // of elements
  int64_t scale_columns;  // = ⌈columns / block_columns⌉
  int64_t block_rows, block_columns;
};

// The grid of a matrix [rows, columns] whose factors are a checkpoint's tensor `scales` of shape `scale_shape`. The tensor's name says its
// format: X.weight_scale_inv (DeepSeek-V3's, which Qwen's FP8 releases have) belongs to blocks of 128 × 128, X.scale (DeepSeek-V4's)
// divides the matrix evenly.
inline constexpr int64_t kScaleInvBlock = 128;
inline bool is_scale_inv(std::string_view scales) { return scales.ends_with(".weight_scale_inv"); }
ScaleGrid scale_grid(std::string_view scales, const std::vector<int64_t>& scale_shape, int64_t rows, int64_t columns);

// Writes the elements [first, first + count) of the matrix, in row-major order, to out[0 … count): code · factor, each rounded once.
// `codes` begins at element `first`, which is even for FP4, as is `count`; `factors` at the matrix's first row. Out is BFloat16 or float.
template <typename Out>
void dequantize_run(Codes kind, const uint8_t* codes, const float* factors, const ScaleGrid& grid, int64_t first, int64_t count, Out* out);

}  // namespace moraine
