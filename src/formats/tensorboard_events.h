// TensorBoard's event files: scalars by step.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace moraine {

// CRC-32C (Castagnoli), as RFC 3720 defines it.
uint32_t crc32c(const std::string& bytes);

// A record as TFRecord files hold them: length, its masked checksum, the bytes, their masked checksum.
std::string tfrecord(const std::string& bytes);

// One new file in a folder. Every call is flushed, so TensorBoard shows a run while it goes on.
class TensorboardEvents {
 public:
  // Makes `folder` if need be and a file in it whose name no other has. What earlier files of the folder hold of steps
  // from `first_step` on, TensorBoard drops: a resumed run has them again. Throws a run error that names the path.
  TensorboardEvents(const std::filesystem::path& folder, int64_t first_step);
  ~TensorboardEvents();
  TensorboardEvents(const TensorboardEvents&) = delete;
  TensorboardEvents& operator=(const TensorboardEvents&) = delete;

  void add_scalars(int64_t step, const std::vector<std::pair<std::string, double>>& scalars);

 private:
  void write(const std::string& event);

  std::filesystem::path path_;
  std::FILE* file_ = nullptr;
};

}  // namespace moraine
