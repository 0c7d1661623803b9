// A matrix's rows as codes and scales again, in the format that they had.
//
// Shape suffixes: R rows, I input features.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "formats/quant_format.h"

namespace moraine {

struct QuantizedRows {
  at::Tensor codes;   // uint8 [R, stored columns]
  at::Tensor scales;  // fp32 [rows of blocks, columns of blocks], each a number of the format's dtype of scales
};

// `rows_RI`, fp32 and finite, begins with a block. A block has its scale of `old_scales` (fp32, as `scales`), or the
// smallest one of its dtype (F32, BF16 or E8M0) with which its largest element fits: of FP8 where that does not fit the
// old one, of FP4, which has few steps, where the squared error is smaller. Blocks that did not change keep scales and
// codes. Codes are the nearest, ties to even.
QuantizedRows quantize(const QuantFormat& format, DType scale_dtype, const at::Tensor& rows_RI,
                       const at::Tensor& old_scales);

// `scales` in their dtype, into `out`.
void store_scales(const at::Tensor& scales, DType dtype, void* out);

}  // namespace moraine
