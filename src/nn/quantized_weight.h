// Frozen matrices that may be quantised: kept as they are stored, dequantised when they are used and again in the backward
// pass, never saved.
//
// Shape suffixes: E experts, O output features, I input features.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

namespace moraine {

// Which elements share a factor, where the grid of factors does not divide a matrix evenly: blocks of rows × columns, the last of a row or
// column of blocks cut off. An [O, I] is `matrices` of them one below another, each of O / matrices rows with blocks of its own.
struct ScaleBlocks {
  int64_t rows = 0, columns = 0;  // 0: the grid divides it evenly
  int64_t matrices = 1;
};

// One matrix [O, I], or one an expert [E, O, I].
struct FrozenWeight {
  // Plain: of the activations' dtype. FP8: float8_e4m3fn. FP4: int8 with half the columns, two E2M1 codes a byte, the even
  // column in the low nibble.
  at::Tensor values;
  // Undefined: not quantised. Else a factor (e8m0 or a floating dtype) for each block.
  at::Tensor scale;
  ScaleBlocks blocks = {};

  FrozenWeight(at::Tensor plain) : values(std::move(plain)) {}  // NOLINT: every tensor is one
  FrozenWeight(at::Tensor codes, at::Tensor scales, ScaleBlocks blocks = {})
      : values(std::move(codes)), scale(std::move(scales)), blocks(blocks) {}

  bool quantized() const { return scale.defined(); }
  bool is_fp4() const { return values.scalar_type() == at::kChar; }
  int64_t out_features() const { return values.size(-2); }
  int64_t in_features() const { return values.size(-1) * (is_fp4() ? 2 : 1); }

  FrozenWeight of_expert(int64_t e) const { return quantized() ? FrozenWeight{values[e], scale[e], blocks} : FrozenWeight{values[e]}; }
  // [O, I] → [groups, O / groups, I], without copying the matrix. More than one group only of a grid that divides it evenly.
  FrozenWeight split_rows(int64_t groups) const;
};

// code · scale, rounded once to `dtype` (bfloat16 or float32): exact for scales that are powers of two. Of any weight that is quantised;
// the result has the weight's dims.
at::Tensor dequantize(const FrozenWeight& w, at::ScalarType dtype);
// The same into `out`, which is contiguous.
void dequantize_into(const at::Tensor& out, const FrozenWeight& w);
// The same in tensor operations that every device has. The CPU has a kernel of its own.
at::Tensor dequantize_by_tensor_ops(const FrozenWeight& w, at::ScalarType dtype);

// So many experts are dequantised at a time: as many as a buffer of this size holds, at least one.
inline constexpr int64_t kDequantizedBytes = int64_t{256} << 20;
inline int64_t experts_dequantized_at_once(int64_t bytes_of_expert) {
  return std::max<int64_t>(1, kDequantizedBytes / std::max<int64_t>(1, bytes_of_expert));
}

}  // namespace moraine
