// The safetensors format: 8 bytes header length (little endian), a JSON header, then the tensors' bytes without gaps.
// https://huggingface.co/docs/safetensors/index (format section).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/dtype.h"

namespace moraine {

struct SafetensorsEntry {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  uint64_t offset;  // of its first byte, from the beginning of the file
  uint64_t nbytes;
};

// The header of one file, checked against every rule of the format and against the file's size.
struct SafetensorsHeader {
  std::filesystem::path path;
  uint64_t file_size = 0;
  uint64_t data_offset = 0;               // of the first tensor byte
  std::vector<SafetensorsEntry> entries;  // in order of offset
  std::map<std::string, std::string> metadata;

  // nullptr when there is no such tensor.
  const SafetensorsEntry* find(std::string_view name) const;
};

// Bytes of a tensor; nullopt when a dim is negative, when shape × dtype overflows 64 bits (a dim of 0 hides nothing:
// the others are multiplied too) or is no whole number of bytes (an odd count of F4).
std::optional<uint64_t> tensor_bytes(DType dtype, std::span<const int64_t> shape);

// Reads and checks the header only. Throws an input error that names the file (and the tensor): header longer than 100
// MB or than the file, not UTF-8 JSON, keys given twice, more than 64 dimensions or 100,000 entries of metadata,
// unknown dtype, shape × dtype ≠ offsets (overflow-checked), overlaps, holes, bytes after the last tensor, a file cut
// short.
SafetensorsHeader read_safetensors_header(const std::filesystem::path& path);
// The same rules over the bytes of a header (the 8 length bytes included) of a file of `file_size` bytes.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> bytes, uint64_t file_size,
                                           const std::filesystem::path& path);

// A tensor to be written; `bytes` must stay valid until the write is done.
struct SafetensorsTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

// Writes the tensors in the order of the format's reference writer (dtype descending, see DType, then name),
// atomically. The names must differ from each other and the bytes must fit dtype and shape (asserted).
void write_safetensors(const std::filesystem::path& path, std::vector<SafetensorsTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});

// Streams a file larger than memory: declare all tensors, then append their bytes in the declared order.
// Nothing is visible under `path` before finish().
class SafetensorsStream {
 public:
  struct Declared {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
  };
  SafetensorsStream(std::filesystem::path path, const std::vector<Declared>& tensors,
                    const std::map<std::string, std::string>& metadata = {});
  // The temporary file is removed when finish() was not reached.
  void append(std::span<const std::byte> bytes);
  // Asserts that as many bytes were appended as were declared.
  void finish();

 private:
  std::unique_ptr<AtomicFile> file_;
  uint64_t remaining_ = 0;
};

}  // namespace moraine
