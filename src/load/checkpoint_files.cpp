#include "load/checkpoint_files.h"

#include <ATen/ATen.h>
#include <fcntl.h>

#include "base/error.h"
#include "parallel/torch_dtype.h"

namespace moraine {
namespace {

void convert(std::byte* from, DType stored, std::byte* to, DType wanted, int64_t count) {
  at::NoGradGuard no_grad;
  at::Tensor source = at::from_blob(from, {count}, torch_dtype(stored));
  at::from_blob(to, {count}, torch_dtype(wanted)).copy_(source);
}

// A thread's own staging: fresh memory for every range would cost more than the conversion.
std::span<std::byte> staging(uint64_t nbytes) {
  thread_local std::vector<std::byte> bytes;
  if (bytes.size() < nbytes) bytes.resize(nbytes);
  return {bytes.data(), nbytes};
}

}  // namespace

CheckpointFiles::CheckpointFiles(const CheckpointIndex& index) {
  for (const SafetensorsHeader& header : index.files) {
    files_.emplace_back(header.path);
    posix_fadvise(files_.back().descriptor(), 0, 0, POSIX_FADV_SEQUENTIAL);  // a longer readahead; advice only
  }
}

void CheckpointFiles::read(const FileRange& range, std::span<std::byte> into) const {
  MORAINE_ASSERT(into.size() == range.landed_nbytes(), "a range is read into as many bytes as it has");
  if (!range.converts()) {
    files_[range.file].read_exact(into, range.offset);
    return;
  }
  const std::span<std::byte> bytes = staging(range.nbytes);
  files_[range.file].read_exact(bytes, range.offset);
  convert(bytes.data(), range.stored, into.data(), range.wanted, range.nbytes * 8 / dtype_bits(range.stored));
}

}  // namespace moraine
