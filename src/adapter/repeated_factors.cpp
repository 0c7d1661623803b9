#include "adapter/repeated_factors.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "adapter/shared_outer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/workers.h"
#include "tensor/torch_dtype.h"

namespace moraine {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{64} << 10;

// The pieces [first, first + count) of `units`, at most so many at a time, shared out to all threads; each has a buffer
// of `buffer_bytes` of its own for all its pieces.
void for_pieces(uint64_t units, uint64_t together, uint64_t buffer_bytes,
                const std::function<void(uint64_t first, uint64_t count, std::byte* buffer)>& work) {
  const uint64_t pieces = (units + together - 1) / together;
  const uint64_t threads = std::min<uint64_t>(pieces, static_cast<uint64_t>(at::get_num_threads()));
  for_each_item(threads, static_cast<int>(threads), [&](size_t thread) {
    std::vector<std::byte> buffer(buffer_bytes);
    for (uint64_t piece = pieces * thread / threads; piece < pieces * (thread + 1) / threads; ++piece) {
      const uint64_t first = piece * together;
      work(first, std::min(together, units - first), buffer.data());
    }
  });
}

at::Tensor as_stored(const SafetensorsEntry& entry, std::vector<int64_t> shape) {
  return at::empty(shape, at::TensorOptions().dtype(torch_dtype(entry.dtype)));
}

}  // namespace

at::Tensor read_repeated_rows(const SafetensorsHeader& header, const SafetensorsEntry& entry, int64_t num_experts) {
  MORAINE_ASSERT(entry.shape.size() == 2 && entry.shape[0] % num_experts == 0, "rows of all experts: " + entry.name);
  const at::Tensor values = as_stored(entry, {entry.shape[0] / num_experts, entry.shape[1]});
  std::byte* const kept = static_cast<std::byte*>(values.mutable_data_ptr());
  const uint64_t of_expert = values.nbytes();
  const File file(header.path);
  for_pieces(of_expert, kPieceBytes, kPieceBytes, [&](uint64_t first, uint64_t count, std::byte* buffer) {
    file.read_exact({kept + first, count}, entry.offset + first);
    for (int64_t expert = 1; expert < num_experts; ++expert) {
      file.read_exact({buffer, count}, entry.offset + static_cast<uint64_t>(expert) * of_expert + first);
      if (std::memcmp(buffer, kept + first, count) != 0) throw not_shared(header.path.string(), entry.name);
    }
  });
  return values;
}

at::Tensor read_repeated_columns(const SafetensorsHeader& header, const SafetensorsEntry& entry, int64_t num_experts) {
  MORAINE_ASSERT(entry.shape.size() == 2 && entry.shape[1] % num_experts == 0, "columns of all experts: " + entry.name);
  const at::Tensor values = as_stored(entry, {entry.shape[0], entry.shape[1] / num_experts});
  std::byte* const kept = static_cast<std::byte*>(values.mutable_data_ptr());
  const uint64_t width = values.element_size(), run = static_cast<uint64_t>(num_experts) * width;
  const uint64_t together = std::max<uint64_t>(kPieceBytes / run, 1);
  const File file(header.path);
  for_pieces(values.numel(), together, together * run, [&](uint64_t first, uint64_t count, std::byte* buffer) {
    file.read_exact({buffer, count * run}, entry.offset + first * run);
    for (uint64_t i = 0; i < count; ++i) {
      const std::byte* const values_E = buffer + i * run;
      // Equal to itself one value further on: then all are.
      if (std::memcmp(values_E, values_E + width, run - width) != 0) throw not_shared(header.path.string(), entry.name);
      std::memcpy(kept + (first + i) * width, values_E, width);
    }
  });
  return values;
}

}  // namespace moraine
