#include "nn/quantized_weight.h"

#include <ATen/Parallel.h>
#include <c10/util/Float8_e4m3fn.h>

#include <algorithm>
#include <array>

#include "base/error.h"

namespace moraine {
namespace {

// E2M1: a sign, two bits of exponent, one of mantissa.
constexpr std::array<float, 16> kFp4Values{0.f, .5f, 1.f, 1.5f, 2.f, 3.f, 4.f, 6.f, -0.f, -.5f, -1.f, -1.5f, -2.f, -3.f, -4.f, -6.f};

std::array<float, 256> fp8_values() {
  std::array<float, 256> values;
  for (int code = 0; code < 256; ++code)
    values[code] = static_cast<float>(c10::Float8_e4m3fn(static_cast<uint8_t>(code), c10::Float8_e4m3fn::from_bits()));
  return values;
}

struct Blocks {
  int64_t rows, columns;  // of elements that share a scale
};

Blocks blocks_of(const FrozenWeight& w) {
  const int64_t O = w.out_features(), I = w.in_features(), scale_rows = w.scale.size(-2), scale_columns = w.scale.size(-1);
  MORAINE_ASSERT(O % scale_rows == 0 && I % scale_columns == 0, "scales must divide the weight evenly");
  MORAINE_ASSERT(!w.is_fp4() || I / scale_columns % 2 == 0, "a block of FP4 codes ends within a byte");
  return {O / scale_rows, I / scale_columns};
}

// All matrices of the weight are taken as one of E·O rows: blocks never span two experts.
template <typename Out>
void dequantize_on_cpu(Out* out, const FrozenWeight& w) {
  const Blocks block = blocks_of(w);
  const int64_t I = w.in_features(), rows = w.values.numel() / w.values.size(-1), scale_columns = w.scale.size(-1);
  const int64_t stored_columns = w.values.size(-1);
  const bool fp4 = w.is_fp4();
  const at::Tensor codes = w.values.contiguous(), scales = w.scale.to(at::kFloat).contiguous();
  const auto* bytes = static_cast<const uint8_t*>(codes.const_data_ptr());
  const float* scale = scales.const_data_ptr<float>();
  static const std::array<float, 256> fp8 = fp8_values();
  at::parallel_for(0, rows, std::max<int64_t>(1, 32768 / I), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* in = bytes + row * stored_columns;
      Out* to = out + row * I;
      const float* row_scale = scale + row / block.rows * scale_columns;
      for (int64_t c = 0; c < scale_columns; ++c) {
        const float s = row_scale[c];
        if (fp4) {
          std::array<Out, 16> value;
          for (int code = 0; code < 16; ++code) value[code] = static_cast<Out>(kFp4Values[code] * s);
          const int64_t first = c * block.columns, end_column = first + block.columns;
          for (int64_t j = first; j < end_column; j += 2) {
            const uint8_t two = in[j / 2];
            to[j] = value[two & 15];
            to[j + 1] = value[two >> 4];
          }
        } else {
          for (int64_t j = c * block.columns; j < (c + 1) * block.columns; ++j) to[j] = static_cast<Out>(fp8[in[j]] * s);
        }
      }
    }
  });
}

}  // namespace

FrozenWeight FrozenWeight::split_rows(int64_t groups) const {
  const at::Tensor split = values.unflatten(0, {groups, values.size(0) / groups});
  if (!quantized()) return {split};
  const int64_t scale_rows = scale.size(0);
  if (scale_rows % groups == 0) return {split, scale.unflatten(0, {groups, scale_rows / groups})};
  // A block spans groups: a row of scales for each row instead.
  const at::Tensor by_row = scale.view(at::kByte).repeat_interleave(values.size(0) / scale_rows, 0).view(scale.scalar_type());
  return {split, by_row.unflatten(0, {groups, values.size(0) / groups})};
}

void dequantize_into(const at::Tensor& out, const FrozenWeight& w) {
  MORAINE_ASSERT(w.quantized() && out.is_contiguous(), "dequantize wants a quantised weight and a contiguous output");
  if (out.is_cpu() && out.scalar_type() == at::kBFloat16) {
    dequantize_on_cpu(out.mutable_data_ptr<at::BFloat16>(), w);
  } else if (out.is_cpu() && out.scalar_type() == at::kFloat) {
    dequantize_on_cpu(out.mutable_data_ptr<float>(), w);
  } else {
    out.copy_(dequantize_by_tensor_ops(w, out.scalar_type()));
  }
}

at::Tensor dequantize(const FrozenWeight& w, at::ScalarType dtype) {
  std::vector<int64_t> shape = w.values.sizes().vec();
  shape.back() = w.in_features();
  at::Tensor out = at::empty(shape, w.values.options().dtype(dtype));
  dequantize_into(out, w);
  return out;
}

at::Tensor dequantize_by_tensor_ops(const FrozenWeight& w, at::ScalarType dtype) {
  const Blocks block = blocks_of(w);
  const int64_t scale_rows = w.scale.size(-2), scale_columns = w.scale.size(-1);
  at::Tensor values;
  if (w.is_fp4()) {
    const at::Tensor bytes = w.values.view(at::kByte);
    const at::Tensor table = at::tensor(at::ArrayRef<float>(kFp4Values)).to(bytes.device());
    const at::Tensor codes = at::stack({bytes.bitwise_and(15), bytes.bitwise_right_shift(4)}, -1);
    values = table.index_select(0, codes.reshape({-1}).to(at::kInt));
  } else {
    values = w.values.to(at::kFloat);
  }
  values = values.reshape({-1, scale_rows, block.rows, scale_columns, block.columns});
  const at::Tensor scale = w.scale.to(at::kFloat).reshape({-1, scale_rows, 1, scale_columns, 1});
  std::vector<int64_t> shape = w.values.sizes().vec();
  shape.back() = w.in_features();
  return (values * scale).to(dtype).view(shape);
}

}  // namespace moraine
