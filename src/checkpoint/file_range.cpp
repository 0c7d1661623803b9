#include "checkpoint/file_range.h"

namespace moraine {

FileRange::ScaleRows FileRange::scale_rows() const {
  if (!scales) return {};
  const int64_t of_a_row = columns() * format.block_rows;  // elements of a row of scales
  const int64_t bits = dtype_bits(stored);
  const int64_t first = static_cast<int64_t>(offset - codes->entry.offset) * 8 / bits,
                count = static_cast<int64_t>(nbytes) * 8 / bits;
  return {first / of_a_row, (first + count - 1) / of_a_row + 1};
}

uint64_t FileRange::read_nbytes() const {
  if (!scales) return nbytes;
  const ScaleRows rows = scale_rows();
  return nbytes + static_cast<uint64_t>(rows.end - rows.first) * scales->entry.shape.back() *
                      dtype_bits(scales->entry.dtype) / 8;
}

}  // namespace moraine
