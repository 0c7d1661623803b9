// Frozen matrices that may be quantised: kept as they are stored, dequantised when they are used and again in the
// backward pass, never saved.
//
// Shape suffixes: E experts, O output features, I input features.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "formats/quant_format.h"

namespace moraine {

// One matrix [O, I], or one per expert [E, O, I].
struct FrozenWeight {
  at::Tensor values;  // of the activations' dtype, or codes as `format` has them
  at::Tensor scale;   // undefined: not quantised; else [..., rows of blocks, columns of blocks]
  std::optional<QuantFormat> format = {};
  // The O rows are those of so many matrices one below another, of equal size, whose blocks end with them.
  int64_t matrices = 1;

  FrozenWeight(at::Tensor plain) : values(std::move(plain)) {}  // NOLINT: every tensor is one
  FrozenWeight(at::Tensor codes, at::Tensor scales, const QuantFormat& format, int64_t matrices = 1)
      : values(std::move(codes)), scale(std::move(scales)), format(format), matrices(matrices) {}

  bool quantized() const { return format.has_value(); }
  int64_t out_features() const { return values.size(-2); }
  int64_t in_features() const { return values.size(-1) * (format ? format->per_stored() : 1); }

  FrozenWeight of_expert(int64_t e) const {
    return quantized() ? FrozenWeight{values[e], scale[e], *format, matrices} : FrozenWeight{values[e]};
  }
  // [O, I] → [groups, O / groups, I], without copying the matrix. Of one matrix.
  FrozenWeight split_rows(int64_t groups) const;
};

// code · scale, rounded once to `dtype` (bfloat16 or float32): exact for scales that are powers of two. Of any weight
// that is quantised; the result has the weight's dims.
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
