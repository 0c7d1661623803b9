// code · scale for a run of a quantised matrix's elements.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "formats/quant_format.h"

namespace moraine {

// E2M1: a sign, two bits of exponent, one of mantissa.
inline constexpr float kFp4Values[16] = {0.f,  .5f,  1.f,  1.5f,  2.f,  3.f,  4.f,  6.f,
                                         -0.f, -.5f, -1.f, -1.5f, -2.f, -3.f, -4.f, -6.f};

// Writes the elements [first, first + count) of a matrix with `columns` columns, in row-major order, to out[0 … count):
// code · scale, each rounded once. `codes` begins at element `first`, which is even for FP4, as are `count` and
// `columns`; `scales` begins at the matrix's first row of them. Out is BFloat16 or float.
template <typename Out>
void dequantize_run(const QuantFormat& format, int64_t columns, const uint8_t* codes, const float* scales,
                    int64_t first, int64_t count, Out* out);

}  // namespace moraine
