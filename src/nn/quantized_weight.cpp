#include "nn/quantized_weight.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "base/error.h"
#include "tensor/dequantize.h"
#include "tensor/execution_device.h"

namespace moraine {
namespace {

// One of the matrices that a weight is made of.
struct Matrix {
  int64_t rows, columns, scale_rows, scale_columns;
  int64_t block_rows, block_columns;

  bool even() const { return rows % block_rows == 0 && columns % block_columns == 0; }
};

Matrix matrix_of(const FrozenWeight& w) {
  const QuantFormat& format = *w.format;
  const int64_t rows = w.out_features() / w.matrices, columns = w.in_features();
  const int64_t scale_rows = format.scale_rows(rows), scale_columns = format.scale_columns(columns);
  MORAINE_ASSERT(rows * w.matrices == w.out_features() && w.scale.size(-2) == w.matrices * scale_rows &&
                     w.scale.size(-1) == scale_columns && format.block_columns % format.per_stored() == 0,
                 "a scale for each block");
  return {rows,
          columns,
          scale_rows,
          scale_columns,
          std::min(format.block_rows, rows),
          std::min(format.block_columns, columns)};
}

template <typename Out>
void dequantize_on_cpu(Out* out, const FrozenWeight& w) {
  const Matrix m = matrix_of(w);
  const int64_t I = m.columns, rows = w.values.numel() / w.values.size(-1), stored_columns = w.values.size(-1);
  const at::Tensor codes = w.values.contiguous(), scales = w.scale.to(at::kFloat).contiguous();
  const auto* bytes = static_cast<const uint8_t*>(codes.const_data_ptr());
  const float* factors = scales.const_data_ptr<float>();
  at::parallel_for(0, rows, std::max<int64_t>(1, 32768 / I), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end;) {
      const int64_t matrix = row / m.rows, within = row % m.rows, count = std::min(end - row, m.rows - within);
      const float* of_matrix = factors + matrix * m.scale_rows * m.scale_columns;
      dequantize_run(*w.format, I, bytes + row * stored_columns, of_matrix, within * I, count * I, out + row * I);
      row += count;
    }
  });
}

// Elements that tensor operations dequantise at a time: their temporaries take some 13 bytes for each.
constexpr int64_t kElementsAtOnce = int64_t{16} << 20;

// Two codes in a byte, the first in its lower half, in fp32. A code's bits, put where E4M3 has its sign, the lower half
// of its exponent and its first bit, are the value / 64 in E4M3, zeros and the subnormal one included.
at::Tensor fp4_values(const at::Tensor& bytes) {
  const at::Tensor sign_of_first = bytes.bitwise_and(8).bitwise_left_shift_(4);
  const at::Tensor first = bytes.bitwise_and(7).bitwise_left_shift_(2).bitwise_or_(sign_of_first);
  const at::Tensor second = bytes.bitwise_and(0x70).bitwise_right_shift_(2).bitwise_or_(bytes.bitwise_and(0x80));
  return at::stack({first, second}, -1).view(at::kFloat8_e4m3fn).to(at::kFloat).mul_(64);
}

// Rows [begin, begin + count) of one matrix, or experts of several; `begin` is a multiple of what a row of scales is
// for.
FrozenWeight part_of(const FrozenWeight& w, int64_t begin, int64_t count, int64_t scale_begin, int64_t scale_count) {
  return {w.values.narrow(0, begin, count), w.scale.narrow(0, scale_begin, scale_count), *w.format};
}

void dequantize_in_parts(const at::Tensor& out, const FrozenWeight& w) {
  if (out.numel() <= kElementsAtOnce) {
    out.copy_(dequantize_by_tensor_ops(w, out.scalar_type()));
  } else if (out.dim() == 3) {
    const int64_t experts = out.size(0), at_once = std::max<int64_t>(1, kElementsAtOnce * experts / out.numel());
    for (int64_t e = 0; e < experts; e += at_once) {
      const int64_t count = std::min(at_once, experts - e);
      FrozenWeight some = part_of(w, e, count, e, count);
      some.matrices = w.matrices;
      if (count == 1)
        dequantize_in_parts(out[e], some.of_expert(0));
      else
        dequantize_in_parts(out.narrow(0, e, count), some);
    }
  } else if (w.matrices > 1) {
    const Matrix m = matrix_of(w);
    for (int64_t i = 0; i < w.matrices; ++i)
      dequantize_in_parts(out.narrow(0, i * m.rows, m.rows),
                          part_of(w, i * m.rows, m.rows, i * m.scale_rows, m.scale_rows));
  } else {
    const Matrix m = matrix_of(w);
    const int64_t at_once = std::max<int64_t>(1, kElementsAtOnce / (m.block_rows * m.columns));  // rows of scales
    for (int64_t s = 0; s < m.scale_rows; s += at_once) {
      const int64_t begin = s * m.block_rows, rows = std::min(at_once * m.block_rows, m.rows - begin);
      const FrozenWeight some = part_of(w, begin, rows, s, std::min(at_once, m.scale_rows - s));
      out.narrow(0, begin, rows).copy_(dequantize_by_tensor_ops(some, out.scalar_type()));
    }
  }
}

}  // namespace

FrozenWeight FrozenWeight::split_rows(int64_t groups) const {
  const at::Tensor split = values.unflatten(0, {groups, values.size(0) / groups});
  if (!quantized()) return {split};
  if (groups == 1) return {split, scale.unsqueeze(0), *format, matrices};
  MORAINE_ASSERT(matrices == 1, "the rows of one matrix are split");
  const int64_t rows = values.size(0), of_group = rows / groups;
  if (of_group % format->block_rows == 0)
    return {split, scale.unflatten(0, {groups, of_group / format->block_rows}), *format};
  // A block spans groups: a row of scales for each row instead.
  QuantFormat by_row = *format;
  by_row.block_rows = 1;
  const at::Tensor bytes = scale.view(at::kByte).repeat_interleave(format->block_rows, 0).narrow(0, 0, rows);
  return {split, bytes.view(scale.scalar_type()).unflatten(0, {groups, of_group}), by_row};
}

void dequantize_into(const at::Tensor& out, const FrozenWeight& w) {
  MORAINE_ASSERT(w.quantized() && out.is_contiguous(), "dequantize wants a quantised weight and a contiguous output");
  if (out.is_meta() && execution_device(out.device()).is_cpu()) return;  // the CPU's kernel allocates nothing
  if (out.is_cpu() && out.scalar_type() == at::kBFloat16) {
    dequantize_on_cpu(out.mutable_data_ptr<at::BFloat16>(), w);
  } else if (out.is_cpu() && out.scalar_type() == at::kFloat) {
    dequantize_on_cpu(out.mutable_data_ptr<float>(), w);
  } else {
    dequantize_in_parts(out, w);
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
  const Matrix m = matrix_of(w);
  at::Tensor values;
  if (w.format->is_fp4()) {
    values = fp4_values(w.values.view(at::kByte));
  } else {
    values = w.values.to(at::kFloat);
  }
  at::Tensor scale = w.scale.to(at::kFloat);
  if (m.even()) {
    values = values.reshape({-1, m.scale_rows, m.block_rows, m.scale_columns, m.block_columns});
    scale = scale.reshape({-1, m.scale_rows, 1, m.scale_columns, 1});
  } else {
    values = values.reshape({-1, m.rows, m.columns});
    scale = scale.reshape({-1, m.scale_rows, m.scale_columns}).repeat_interleave(m.block_rows, 1).narrow(1, 0, m.rows);
    scale = scale.repeat_interleave(m.block_columns, 2).narrow(2, 0, m.columns);
  }
  std::vector<int64_t> shape = w.values.sizes().vec();
  shape.back() = w.in_features();
  return (values * scale).to(dtype).view(shape);
}

}  // namespace moraine
