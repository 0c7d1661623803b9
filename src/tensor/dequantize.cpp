#include "tensor/dequantize.h"

#include <c10/util/Float8_e4m3fn.h>

#include <algorithm>
#include <array>

namespace moraine {
namespace {

std::array<float, 256> fp8_values() {
  std::array<float, 256> values;
  for (int code = 0; code < 256; ++code)
    values[code] = static_cast<float>(c10::Float8_e4m3fn(static_cast<uint8_t>(code), c10::Float8_e4m3fn::from_bits()));
  return values;
}

}  // namespace

template <typename Out>
void dequantize_run(const QuantFormat& format, int64_t columns, const uint8_t* codes, const float* scales,
                    int64_t first, int64_t count, Out* out) {
  static const std::array<float, 256> fp8 = fp8_values();
  const int64_t scale_columns = format.scale_columns(columns);
  int64_t row = first / columns, column = first % columns;
  while (count > 0) {
    // Up to the end of a block: one factor.
    const int64_t block = column / format.block_columns;
    const int64_t run = std::min(count, std::min((block + 1) * format.block_columns, columns) - column);
    const float factor = scales[row / format.block_rows * scale_columns + block];
    if (format.is_fp4()) {
      std::array<Out, 16> value;
      for (int code = 0; code < 16; ++code) value[code] = static_cast<Out>(kFp4Values[code] * factor);
      for (int64_t i = 0; i < run; i += 2) {
        const uint8_t two = codes[i / 2];
        out[i] = value[two & 15];
        out[i + 1] = value[two >> 4];
      }
      codes += run / 2;
    } else {
      for (int64_t i = 0; i < run; ++i) out[i] = static_cast<Out>(fp8[codes[i]] * factor);
      codes += run;
    }
    out += run;
    count -= run;
    column += run;
    if (column == columns) column = 0, ++row;
  }
}

template void dequantize_run(const QuantFormat&, int64_t, const uint8_t*, const float*, int64_t, int64_t,
                             c10::BFloat16*);
template void dequantize_run(const QuantFormat&, int64_t, const uint8_t*, const float*, int64_t, int64_t, float*);

}  // namespace moraine
