#include "load/file_range.h"

namespace moraine {

FileRange::ScaleRows FileRange::scale_rows() const {
  if (!scales) return {};
  const int64_t bits = dtype_bits(stored), columns = codes->entry.shape[1] * (stored == DType::kF4 ? 2 : 1);
  const int64_t block_rows = codes->entry.shape[0] / scales->entry.shape[0];
  const int64_t first = static_cast<int64_t>(offset - codes->entry.offset) * 8 / bits, count = static_cast<int64_t>(nbytes) * 8 / bits;
  return {first / columns / block_rows, (first + count - 1) / columns / block_rows + 1};
}

uint64_t FileRange::read_nbytes() const {
  if (!scales) return nbytes;
  const ScaleRows rows = scale_rows();
  return nbytes + static_cast<uint64_t>(rows.end - rows.first) * scales->entry.shape[1] * dtype_bits(scales->entry.dtype) / 8;
}

}  // namespace moraine
