// The files of a checkpoint, opened for reading byte ranges as they are to land in memory.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/file.h"
#include "checkpoint/file_range.h"
#include "formats/checkpoint_index.h"

namespace moraine {

class CheckpointFiles {
 public:
  // Throws an input error that names a file that cannot be opened.
  explicit CheckpointFiles(const CheckpointIndex& index);
  // Fills `into` (range.landed_nbytes() bytes). Elements that are dequantised take the scales of their rows from the
  // files too. Safe from several threads. Throws as File::read_exact.
  void read(const FileRange& range, std::span<std::byte> into) const;

 private:
  void read_dequantized(const FileRange& range, std::span<std::byte> into) const;

  std::vector<File> files_;
};

}  // namespace moraine
