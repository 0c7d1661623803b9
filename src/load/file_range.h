// A run of bytes of a checkpoint's file.
#pragma once

#include <cstdint>

#include "formats/dtype.h"

namespace moraine {

// Bytes of one file that are elements of one dtype.
struct FileRange {
  int file = 0;         // index into CheckpointIndex::files
  uint64_t offset = 0;  // bytes from the beginning of the file
  uint64_t nbytes = 0;
  DType stored = DType::kF32;
  DType wanted = DType::kF32;  // == stored unless the elements are converted while they are read

  uint64_t end() const { return offset + nbytes; }
  bool converts() const { return stored != wanted; }
  // Bytes in memory.
  uint64_t landed_nbytes() const { return nbytes * dtype_bits(wanted) / dtype_bits(stored); }
  // `size` bytes of the file from byte `begin` of this range on; both at borders of elements.
  FileRange piece(uint64_t begin, uint64_t size) const { return {file, offset + begin, size, stored, wanted}; }

  friend auto operator<=>(const FileRange&, const FileRange&) = default;
};

}  // namespace moraine
