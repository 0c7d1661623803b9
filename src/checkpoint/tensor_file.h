// Small safetensors files as torch tensors: adapters, token files, results. Base weights go through checkpoint/plan
// instead.
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <future>
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

// Writes a file tensor by tensor, for files larger than the memory that may be spent on them: a buffer is hashed and
// written by a thread of its own while the next one is filled. The file lies whole under its name, read back and
// compared, or not at all.
class TensorFileWriter {
 public:
  struct Declared {
    std::string name;
    std::vector<int64_t> shape;
  };
  // All tensors are fp32.
  TensorFileWriter(const std::filesystem::path& path, const std::vector<Declared>& tensors,
                   const std::map<std::string, std::string>& metadata = {});
  ~TensorFileWriter();
  // The next declared tensor, on any device. Throws a run error when the disk is full, here or later.
  void append(const at::Tensor& tensor);
  // The next rows of a declared tensor, which ends with its last row.
  void append_rows(const at::Tensor& rows);
  // Throws a run error that names the tensor when the file does not hold what was appended. Returns what hash_file
  // would of it, made of the same bytes that were read back; "" without `with_hash`, where all threads read.
  std::string finish(bool with_hash = false);

 private:
  static constexpr size_t kBufferBytes = size_t{4} << 20;
  void start_writing();  // what is in filling_

  std::filesystem::path path_;
  std::vector<Declared> tensors_;
  size_t tensors_done_ = 0;           // that were appended
  int64_t rows_done_ = 0;             // of the next one
  std::vector<std::byte> filling_{};  // behind those of written_
  // Of the thread that writes.
  SafetensorsStream stream_;
  std::vector<std::byte> written_{};
  std::vector<std::string> hashes_{};  // of tensors that are whole
  std::unique_ptr<Hasher> begun_{};    // of one that is not
  uint64_t begun_bytes_ = 0;
  std::future<void> writing_{};
};

}  // namespace moraine
