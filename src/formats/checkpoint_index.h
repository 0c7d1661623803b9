// A Hugging Face checkpoint folder: which tensor lies in which safetensors file, where.
#pragma once

#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include "formats/safetensors.h"

namespace moraine {

struct CheckpointTensor {
  int file;  // index into CheckpointIndex::files
  SafetensorsEntry entry;
};

struct CheckpointIndex {
  std::filesystem::path folder;
  std::vector<SafetensorsHeader> files;
  std::unordered_map<std::string, CheckpointTensor> tensors;

  // nullptr when there is no such tensor.
  const CheckpointTensor* find(const std::string& name) const;
  uint64_t total_bytes() const;  // of all tensors
};

// Reads the single model.safetensors or, where there is none, model.safetensors.index.json and all headers it names
// (the order of transformers). Tensors of a file that the index does not name are left out. Throws an input error that
// names the file: missing files, an index entry whose path leaves the folder, a tensor that its file does not hold, a
// tensor in two files.
CheckpointIndex read_checkpoint_index(const std::filesystem::path& folder);

}  // namespace moraine
