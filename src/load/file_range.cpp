#include "load/file_range.h"

#include "load/dequantize.h"

namespace moraine {

ScaleGrid FileRange::grid() const {
  const int64_t columns = codes->entry.shape[1] * (stored == DType::kF4 ? 2 : 1);
  return scale_grid(scales->entry.name, scales->entry.shape, codes->entry.shape[0], columns);
}

FileRange::ScaleRows FileRange::scale_rows() const {
  if (!scales) return {};
  const auto [columns, scale_columns, block_rows, block_columns] = grid();
  const int64_t bits = dtype_bits(stored);
  const int64_t first = static_cast<int64_t>(offset - codes->entry.offset) * 8 / bits, count = static_cast<int64_t>(nbytes) * 8 / bits;
  return {first / columns / block_rows, (first + count - 1) / columns / block_rows + 1};
}

uint64_t FileRange::read_nbytes() const {
  if (!scales) return nbytes;
  const ScaleRows rows = scale_rows();
  return nbytes + static_cast<uint64_t>(rows.end - rows.first) * scales->entry.shape[1] * dtype_bits(scales->entry.dtype) / 8;
}

}  // namespace moraine
