#include "checkpoint/checkpoint_files.h"

#include <ATen/ATen.h>
#include <fcntl.h>

#include "base/error.h"
#include "tensor/dequantize.h"
#include "tensor/torch_dtype.h"

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
  if (range.scales) return read_dequantized(range, into);
  const std::span<std::byte> bytes = staging(range.nbytes);
  files_[range.file].read_exact(bytes, range.offset);
  convert(bytes.data(), range.stored, into.data(), range.wanted, range.nbytes * 8 / dtype_bits(range.stored));
}

void CheckpointFiles::read_dequantized(const FileRange& range, std::span<std::byte> into) const {
  MORAINE_ASSERT(range.wanted == DType::kBF16, "elements are dequantised to bfloat16 while they are read");
  const SafetensorsEntry &codes = range.codes->entry, &scales = range.scales->entry;
  const int64_t columns = range.columns(), scale_columns = scales.shape.back();
  const auto [first_scales, end_scales] = range.scale_rows();
  const uint64_t row_bytes = static_cast<uint64_t>(scale_columns) * dtype_bits(scales.dtype) / 8;
  const at::Tensor stored = at::empty({end_scales - first_scales, scale_columns},
                                      at::TensorOptions().dtype(torch_dtype(scale_dtype_of(scales.dtype))));
  files_[range.scales->file].read_exact({static_cast<std::byte*>(stored.mutable_data_ptr()), stored.nbytes()},
                                        scales.offset + first_scales * row_bytes);
  const at::Tensor factors = stored.to(at::kFloat);

  const std::span<std::byte> bytes = staging(range.nbytes);
  files_[range.file].read_exact(bytes, range.offset);
  // Counted from the first row of scales that was read.
  const int64_t bits = dtype_bits(range.stored), before = first_scales * range.format.block_rows * columns;
  const int64_t begin = static_cast<int64_t>(range.offset - codes.offset) * 8 / bits - before;
  const int64_t count = static_cast<int64_t>(range.nbytes) * 8 / bits;
  dequantize_run(range.format, columns, reinterpret_cast<const uint8_t*>(bytes.data()), factors.const_data_ptr<float>(),
                 begin, count, reinterpret_cast<c10::BFloat16*>(into.data()));
}

}  // namespace moraine
