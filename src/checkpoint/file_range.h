// A run of bytes of a checkpoint's file.
#pragma once

#include <cstdint>

#include "formats/checkpoint_index.h"
#include "formats/dtype.h"
#include "formats/quant_format.h"

namespace moraine {

// Bytes of one file that are elements of one dtype.
struct FileRange {
  int file = 0;         // index into CheckpointIndex::files
  uint64_t offset = 0;  // bytes from the beginning of the file
  uint64_t nbytes = 0;
  DType stored = DType::kF32;  // kF4: FP4 codes, two in a byte of a tensor of I8 or U8
  DType wanted = DType::kF32;  // == stored unless the elements are converted while they are read
  // Of elements that are dequantised: their tensor and that of its scales, in the index that the files are opened by,
  // and their format.
  const CheckpointTensor* codes = nullptr;
  const CheckpointTensor* scales = nullptr;
  QuantFormat format = {};

  uint64_t end() const { return offset + nbytes; }
  bool converts() const { return stored != wanted; }
  // Bytes in memory.
  uint64_t landed_nbytes() const { return landed(nbytes); }
  // What `size` bytes of the file come to in memory.
  uint64_t landed(uint64_t size) const { return size * dtype_bits(wanted) / dtype_bits(stored); }
  // Rows [first, end) of the scales of elements that are dequantised.
  struct ScaleRows {
    int64_t first = 0, end = 0;
  };
  ScaleRows scale_rows() const;
  int64_t columns() const { return stored_columns_of(codes->entry.shape) * format.per_stored(); }  // of their matrix
  // What is read of the files: `nbytes`, and the rows of scales.
  uint64_t read_nbytes() const;
  // `size` bytes of the file from byte `begin` of this range on; both at borders of elements.
  FileRange piece(uint64_t begin, uint64_t size) const {
    return {file, offset + begin, size, stored, wanted, codes, scales, format};
  }

  friend auto operator<=>(const FileRange&, const FileRange&) = default;
};

}  // namespace moraine
