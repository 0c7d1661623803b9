// A new checkpoint in the hub's layout, streamed to disk: safetensors files of a bounded size and their index.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "formats/safetensors.h"

namespace moraine {

struct NewTensor {
  SafetensorsStream::Declared declared;
  // Its elements are asked for in runs that begin at multiples of this, and end at one or at the tensor's end.
  uint64_t unit = 1;
};

struct NewCheckpoint {
  std::vector<NewTensor> tensors;           // fill files in this order
  uint64_t max_file_bytes = 5'000'000'000;  // of the tensors of a file; a larger tensor has one of its own
  int num_threads = 1;

  uint64_t total_bytes() const;  // of all tensors
};

// Writes the elements [first, first + count) of tensors[tensor], as stored. Called from num_threads threads at once.
using FillElements = std::function<void(size_t tensor, uint64_t first, uint64_t count, std::byte* into)>;

// Throws an input error unless `folder` is missing or empty.
void check_new_folder(const std::filesystem::path& folder);

// Writes `folder` (missing or empty) whole or not at all: the tensors, filled by all threads a buffer at a time while
// the buffer before it goes to disk, and what `add_files` writes into the temporary folder that it is given, at most
// `other_bytes`. Returns how many files of tensors there are. Throws an input error for a used folder, a run error when
// the disk is too small or full.
size_t write_checkpoint(const std::filesystem::path& folder, const NewCheckpoint& checkpoint, const FillElements& fill,
                        uint64_t other_bytes,
                        const std::function<void(const std::filesystem::path& temporary)>& add_files);

}  // namespace moraine
