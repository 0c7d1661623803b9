#include "checkpoint/tensor_file.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/workers.h"
#include "tensor/torch_dtype.h"

namespace moraine {
namespace {

std::vector<SafetensorsStream::Declared> in_fp32(const std::vector<TensorFileWriter::Declared>& tensors) {
  std::vector<SafetensorsStream::Declared> declared;
  for (const TensorFileWriter::Declared& tensor : tensors) declared.push_back({tensor.name, DType::kF32, tensor.shape});
  return declared;
}

}  // namespace

at::Tensor read_tensor(const SafetensorsHeader& header, const SafetensorsEntry& entry) {
  at::Tensor tensor = at::empty(entry.shape, at::TensorOptions().dtype(torch_dtype(entry.dtype)));
  File(header.path).read_exact({static_cast<std::byte*>(tensor.mutable_data_ptr()), entry.nbytes}, entry.offset);
  return tensor;
}

void write_tensors(const std::filesystem::path& path, const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                   const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> contiguous;  // keeps the bytes alive until they are written
  std::vector<SafetensorsTensor> entries;
  for (const auto& [name, tensor] : tensors) {
    contiguous.push_back(tensor.detach().to(at::kCPU).contiguous());
    const at::Tensor& t = contiguous.back();
    entries.push_back({name,
                       from_torch_dtype(t.scalar_type()),
                       t.sizes().vec(),
                       {static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes()}});
  }
  write_safetensors(path, std::move(entries), metadata);
}

TensorFileWriter::TensorFileWriter(const std::filesystem::path& path, const std::vector<Declared>& tensors,
                                   const std::map<std::string, std::string>& metadata)
    : path_(path), tensors_(tensors), stream_(path, in_fp32(tensors), metadata) {}

TensorFileWriter::~TensorFileWriter() {
  if (writing_.valid()) writing_.wait();
}

void TensorFileWriter::append(const at::Tensor& tensor) {
  MORAINE_ASSERT(rows_done_ == 0 && tensors_done_ < tensors_.size() && tensor.sizes() == tensors_[tensors_done_].shape,
                 "the tensor is the next one declared");
  append_rows(tensor);
}

void TensorFileWriter::append_rows(const at::Tensor& rows) {
  MORAINE_ASSERT(tensors_done_ < tensors_.size(), "the rows are of a declared tensor");
  const at::IntArrayRef shape = tensors_[tensors_done_].shape;
  const at::Tensor values = rows.detach().to(at::kCPU).contiguous();
  MORAINE_ASSERT(values.scalar_type() == at::kFloat && values.sizes().slice(1) == shape.slice(1) &&
                     rows_done_ + values.size(0) <= shape[0],
                 "the rows are the next ones of the declared tensor");
  std::span bytes(static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes());
  while (!bytes.empty()) {
    const size_t count = std::min(bytes.size(), kBufferBytes - filling_.size());
    filling_.insert(filling_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(count));
    bytes = bytes.subspan(count);
    if (filling_.size() == kBufferBytes) start_writing();
  }
  rows_done_ += values.size(0);
  if (rows_done_ < shape[0]) return;
  ++tensors_done_;
  rows_done_ = 0;
}

void TensorFileWriter::start_writing() {
  if (writing_.valid()) writing_.get();
  std::swap(filling_, written_);
  filling_.clear();
  writing_ = std::async(std::launch::async, [this] {
    stream_.append(written_);
    for (std::span<const std::byte> bytes = written_; !bytes.empty();) {
      const uint64_t of_tensor = num_elements(tensors_[hashes_.size()].shape) * sizeof(float);
      const size_t count = std::min<uint64_t>(bytes.size(), of_tensor - begun_bytes_);
      if (!begun_) begun_ = std::make_unique<Hasher>();
      begun_->update(bytes.first(count));
      bytes = bytes.subspan(count);
      begun_bytes_ += count;
      if (begun_bytes_ < of_tensor) continue;
      hashes_.push_back(begun_->digest());
      begun_.reset();
      begun_bytes_ = 0;
    }
  });
}

std::string TensorFileWriter::finish(bool with_hash) {
  start_writing();
  writing_.get();
  stream_.finish();
  const SafetensorsHeader header = read_safetensors_header(path_);
  const File file(path_);
  Hasher of_file;
  const auto read = [&](uint64_t offset, uint64_t nbytes) {
    Hasher hasher;
    for_each_piece(file, offset, nbytes, [&](std::span<const std::byte> piece) {
      if (with_hash) of_file.update(piece);
      hasher.update(piece);
    });
    return hasher.digest();
  };
  if (with_hash) read(0, header.data_offset);
  for_each_item(tensors_.size(), with_hash ? 1 : at::get_num_threads(), [&](size_t i) {
    const SafetensorsEntry& entry =
        header.entries.at(i);  // none is empty, so they follow each other as they were declared
    if (entry.name != tensors_[i].name || entry.shape != tensors_[i].shape ||
        read(entry.offset, entry.nbytes) != hashes_[i]) {
      throw run_error(path_.string(), "tensor " + tensors_[i].name + " read back differs from the one written",
                      "the storage is faulty; save.dir elsewhere");
    }
  });
  return with_hash ? of_file.digest() : "";
}

}  // namespace moraine
