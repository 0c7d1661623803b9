#include "tensor/quantize.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Float8_e4m3fn.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "tensor/dequantize.h"

namespace moraine {
namespace {

constexpr float kLargestFp8 = 448, kLargestFp4 = 6;
constexpr int kLeastExponent = -126, kMostExponent = 127;  // of normal numbers of every dtype of scales

// The next larger number of `dtype`.
float next_scale(float scale, DType dtype) {
  switch (dtype) {
    case DType::kF8E8M0:
      return 2 * scale;
    case DType::kBF16:
      return c10::BFloat16(static_cast<uint16_t>(c10::BFloat16(scale).x + 1), c10::BFloat16::from_bits());
    default:
      return std::nextafter(scale, std::numeric_limits<float>::infinity());
  }
}

// The smallest number of `dtype` with which `largest` is at most `most` codes.
float covering_scale(float largest, float most, DType dtype) {
  const float least = std::ldexp(1.0f, kLeastExponent);
  float scale = std::max(largest / most, least);
  if (dtype == DType::kF8E8M0) {
    int exponent;
    std::frexp(scale, &exponent);  // scale < 2^exponent
    scale = std::ldexp(1.0f, std::clamp(exponent - 1, kLeastExponent, kMostExponent));
  } else if (dtype == DType::kBF16) {
    scale = c10::BFloat16(scale);
  }
  while (scale * most < largest) scale = next_scale(scale, dtype);
  return scale;
}

uint8_t fp8_code(float value) { return c10::Float8_e4m3fn(std::clamp(value, -kLargestFp8, kLargestFp8)).x; }

// E2M1: the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6, in the middle of two the one with an even code.
uint8_t fp4_code(float value) {
  constexpr float kMiddles[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const float magnitude = std::abs(value);
  uint8_t code = 0;
  for (const float middle : kMiddles) {
    if (magnitude < middle || (magnitude == middle && code % 2 == 0)) break;
    ++code;
  }
  return static_cast<uint8_t>(code | (std::signbit(value) ? 8 : 0));
}

// Rows and columns of a block in a matrix of `row_length` columns.
struct Block {
  const float* values;  // its first
  int64_t rows, columns, row_length;
};

double squared_fp4_error(const Block& block, float scale) {
  double sum = 0;
  for (int64_t row = 0; row < block.rows; ++row) {
    const float* values = block.values + row * block.row_length;
    for (int64_t column = 0; column < block.columns; ++column) {
      const float difference = kFp4Values[fp4_code(values[column] / scale)] * scale - values[column];
      sum += static_cast<double>(difference) * difference;
    }
  }
  return sum;
}

float new_scale(const Block& block, float old, bool fp4, DType dtype) {
  const float most = fp4 ? kLargestFp4 : kLargestFp8;
  float largest = 0;
  for (int64_t row = 0; row < block.rows; ++row)
    for (int64_t column = 0; column < block.columns; ++column)
      largest = std::max(largest, std::abs(block.values[row * block.row_length + column]));
  const bool fits = largest <= old * most;
  if (fits && (!fp4 || largest == 0)) return old;
  const float covering = covering_scale(largest, most, dtype);
  if (!fp4 || old == 0) return covering;
  return squared_fp4_error(block, covering) < squared_fp4_error(block, old) ? covering : old;
}

}  // namespace

QuantizedRows quantize(const QuantFormat& format, DType scale_dtype, const at::Tensor& rows_RI,
                       const at::Tensor& old_scales) {
  MORAINE_ASSERT(rows_RI.scalar_type() == at::kFloat && rows_RI.is_contiguous(), "rows are fp32");
  const int64_t rows = rows_RI.size(0), columns = rows_RI.size(1), stored_columns = format.stored_columns(columns);
  QuantizedRows quantized{at::empty({rows, stored_columns}, at::kByte), old_scales.to(at::kFloat).clone()};
  MORAINE_ASSERT(
      quantized.scales.size(0) == format.scale_rows(rows) && quantized.scales.size(1) == format.scale_columns(columns),
      "there is a scale for each block");
  const float* values = rows_RI.const_data_ptr<float>();
  uint8_t* codes = quantized.codes.mutable_data_ptr<uint8_t>();
  float* scales = quantized.scales.mutable_data_ptr<float>();
  for (int64_t first_row = 0; first_row < rows; first_row += format.block_rows) {
    const int64_t end_row = std::min(first_row + format.block_rows, rows);
    for (int64_t first = 0; first < columns; first += format.block_columns, ++scales) {
      const int64_t end = std::min(first + format.block_columns, columns);
      const Block block{values + first_row * columns + first, end_row - first_row, end - first, columns};
      *scales = new_scale(block, *scales, format.is_fp4(), scale_dtype);
      const float scale = *scales > 0 ? *scales : 1;  // of a block of zeros
      for (int64_t row = first_row; row < end_row; ++row) {
        const float* in = values + row * columns;
        uint8_t* out = codes + row * stored_columns;
        if (format.is_fp4())
          for (int64_t column = first; column < end; column += 2)
            out[column / 2] =
                static_cast<uint8_t>(fp4_code(in[column] / scale) | fp4_code(in[column + 1] / scale) << 4);
        else
          for (int64_t column = first; column < end; ++column) out[column] = fp8_code(in[column] / scale);
      }
    }
  }
  return quantized;
}

void store_scales(const at::Tensor& scales, DType dtype, void* out) {
  const at::Tensor flat = scales.contiguous();
  const float* from = flat.const_data_ptr<float>();
  for (int64_t i = 0; i < flat.numel(); ++i) {
    if (dtype == DType::kF8E8M0) {
      int exponent;
      std::frexp(from[i], &exponent);
      static_cast<uint8_t*>(out)[i] = static_cast<uint8_t>(exponent - 1 + 127);
    } else if (dtype == DType::kBF16) {
      static_cast<c10::BFloat16*>(out)[i] = from[i];
    } else {
      static_cast<float*>(out)[i] = from[i];
    }
  }
}

}  // namespace moraine
