// Small safetensors files as torch tensors: adapters, token files, results. Base weights go through checkpoint/plan
// instead.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/fingerprint.h"
#include "formats/safetensors.h"

namespace moraine {

// The tensor of `entry`, on the CPU, in its stored dtype.
at::Tensor read_tensor(const SafetensorsHeader& header, const SafetensorsEntry& entry);

// Writes CPU or device tensors of any torch dtype that the format has, atomically.
void write_tensors(const std::filesystem::path& path, const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                   const std::map<std::string, std::string>& metadata = {});

// Writes a file tensor by tensor, for files larger than the memory that may be spent on them. It lies whole under its
// name, read back and compared, or not at all.
class TensorFileWriter {
 public:
  struct Declared {
    std::string name;
    std::vector<int64_t> shape;
  };
  // All tensors are fp32.
  TensorFileWriter(const std::filesystem::path& path, const std::vector<Declared>& tensors,
                   const std::map<std::string, std::string>& metadata = {});
  // The next declared tensor, on any device.
  void append(const at::Tensor& tensor);
  // The next rows of a declared tensor, which ends with its last row.
  void append_rows(const at::Tensor& rows);
  // Throws a run error that names the tensor when the file does not hold what was appended.
  void finish();

 private:
  std::filesystem::path path_;
  std::vector<Declared> tensors_;
  SafetensorsStream stream_;
  std::vector<std::string> hashes_;  // of what was appended
  std::unique_ptr<Hasher> begun_;    // of a tensor that is not whole yet
  int64_t rows_done_ = 0;            // of it
};

}  // namespace moraine
