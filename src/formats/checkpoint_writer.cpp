#include "formats/checkpoint_writer.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <future>
#include <memory>
#include <span>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "base/json.h"
#include "base/workers.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kBufferBytes = 64 << 20;
constexpr uint64_t kPieceElements = 1 << 20;  // about so many elements are filled at a time

using FileTensors = std::vector<size_t>;  // indices into NewCheckpoint::tensors

// Elements [first, first + count) of a tensor on their way to disk.
struct Piece {
  size_t tensor;
  uint64_t first, count;
  uint64_t buffer_offset;
};

uint64_t nbytes_of(const NewTensor& tensor) {
  const auto nbytes = tensor_bytes(tensor.declared.dtype, tensor.declared.shape);
  MORAINE_ASSERT(nbytes, "a tensor to be written has a size: " + tensor.declared.name);
  return *nbytes;
}

// A buffer that is filled by all threads and then appended to a file by another one, while the next buffer is filled.
struct Buffer {
  std::unique_ptr<std::byte[]> bytes;
  uint64_t size = 0;

  void reserve(uint64_t wanted) {
    if (wanted <= size) return;
    bytes = std::make_unique_for_overwrite<std::byte[]>(wanted);
    size = wanted;
  }
};

class Writer {
 public:
  Writer(const NewCheckpoint& checkpoint, const FillElements& fill) : checkpoint_(checkpoint), fill_(fill) {}

  void write_file(const fs::path& path, const FileTensors& tensors) {
    std::vector<SafetensorsStream::Declared> declared;
    for (size_t t : tensors) declared.push_back(checkpoint_.tensors[t].declared);
    SafetensorsStream stream(path, declared, {{"format", "pt"}});
    std::future<void> appended;  // its end is waited for before the stream's, whatever is thrown
    for (size_t t : tensors) {
      const NewTensor& tensor = checkpoint_.tensors[t];
      const uint64_t element_bytes = dtype_bits(tensor.declared.dtype) / 8,
                     elements = nbytes_of(tensor) / element_bytes;
      const uint64_t step = std::max(tensor.unit, kPieceElements / tensor.unit * tensor.unit);
      for (uint64_t first = 0; first < elements; first += step) {
        const uint64_t count = std::min(step, elements - first), nbytes = count * element_bytes;
        if (used_ > 0 && used_ + nbytes > buffers_[0].size) flush(stream, appended);
        if (used_ == 0) buffers_[0].reserve(std::max(kBufferBytes, nbytes));
        pieces_.push_back({t, first, count, used_});
        used_ += nbytes;
      }
    }
    flush(stream, appended);
    if (appended.valid()) appended.get();
    stream.finish();
  }

 private:
  void flush(SafetensorsStream& stream, std::future<void>& appended) {
    for_each_item(pieces_.size(), checkpoint_.num_threads, [&](size_t i) {
      const Piece& piece = pieces_[i];
      fill_(piece.tensor, piece.first, piece.count, buffers_[0].bytes.get() + piece.buffer_offset);
    });
    if (appended.valid()) appended.get();
    std::swap(buffers_[0], buffers_[1]);
    const std::span<const std::byte> filled(buffers_[1].bytes.get(), used_);
    appended = std::async(std::launch::async, [&stream, filled] { stream.append(filled); });
    pieces_.clear();
    used_ = 0;
  }

  const NewCheckpoint& checkpoint_;
  const FillElements& fill_;
  Buffer buffers_[2];  // the one being filled, the one being appended
  std::vector<Piece> pieces_;
  uint64_t used_ = 0;
};

std::vector<FileTensors> split_into_files(const NewCheckpoint& checkpoint) {
  std::vector<FileTensors> files(1);
  uint64_t bytes = 0;
  for (size_t t = 0; t < checkpoint.tensors.size(); ++t) {
    const uint64_t nbytes = nbytes_of(checkpoint.tensors[t]);
    if (!files.back().empty() && bytes + nbytes > checkpoint.max_file_bytes) {
      files.emplace_back();
      bytes = 0;
    }
    bytes += nbytes;
    files.back().push_back(t);
  }
  // As the format's reference writer has it, so that every tensor starts at a multiple of its element's size.
  const auto wider_first = [&](size_t a, size_t b) {
    return checkpoint.tensors[a].declared.dtype > checkpoint.tensors[b].declared.dtype;
  };
  for (FileTensors& file : files) std::stable_sort(file.begin(), file.end(), wider_first);
  return files;
}

std::string file_name(size_t index, size_t num_files) {
  if (num_files == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, num_files);
}

std::string index_json(const NewCheckpoint& checkpoint, const std::vector<FileTensors>& files) {
  OrderedJson weight_map = OrderedJson::object();
  for (size_t i = 0; i < files.size(); ++i)
    for (size_t t : files[i]) weight_map[checkpoint.tensors[t].declared.name] = file_name(i, files.size());
  return OrderedJson{{"metadata", {{"total_size", checkpoint.total_bytes()}}}, {"weight_map", std::move(weight_map)}}
             .dump(2) +
         "\n";
}

// Sooner than after writing until the disk is full.
void check_space(const fs::path& folder, uint64_t needed) {
  fs::path existing = fs::absolute(folder);
  std::error_code error;
  while (!fs::exists(existing, error) && existing.has_relative_path()) existing = existing.parent_path();
  const fs::space_info space = fs::space(existing, error);
  if (error || space.available >= needed) return;
  throw run_error(
      folder.string(),
      fmt::format("{} are needed, the disk has {} left", format_bytes(needed), format_bytes(space.available)),
      "free space or name a folder on another disk");
}

}  // namespace

uint64_t NewCheckpoint::total_bytes() const {
  uint64_t sum = 0;
  for (const NewTensor& tensor : tensors) sum += nbytes_of(tensor);
  return sum;
}

void check_new_folder(const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(folder, error)) return;
  if (!fs::is_directory(folder, error)) throw input_error(folder.string(), "is a file, not a folder");
  const bool is_empty = fs::is_empty(folder, error);
  if (error) throw input_error(folder.string(), error.message(), "name a new folder");
  if (!is_empty) throw input_error(folder.string(), "is not empty", "name a new folder, or empty this one");
  // The files are written beside it, then take its name.
  struct stat own {
  }, parent{};
  if (::stat(folder.c_str(), &own) == 0 && ::stat(fs::absolute(folder / "..").c_str(), &parent) == 0 &&
      own.st_dev != parent.st_dev)
    throw input_error(folder.string(), "is a file system of its own, whose place no folder can take",
                      "name a new folder inside it");
}

size_t write_checkpoint(const fs::path& folder, const NewCheckpoint& checkpoint, const FillElements& fill,
                        uint64_t other_bytes, const std::function<void(const fs::path& temporary)>& add_files) {
  check_new_folder(folder);
  check_space(folder, checkpoint.total_bytes() + other_bytes);
  const std::vector<FileTensors> files = split_into_files(checkpoint);
  Writer writer(checkpoint, fill);
  write_folder_atomic(folder, [&](const fs::path& temporary) {
    for (size_t i = 0; i < files.size(); ++i) writer.write_file(temporary / file_name(i, files.size()), files[i]);
    if (files.size() > 1) write_file_atomic(temporary / "model.safetensors.index.json", index_json(checkpoint, files));
    add_files(temporary);
  });
  return files.size();
}

}  // namespace moraine
