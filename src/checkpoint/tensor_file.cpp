#include "checkpoint/tensor_file.h"

#include "base/error.h"
#include "base/file.h"
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

void TensorFileWriter::append(const at::Tensor& tensor) {
  MORAINE_ASSERT(hashes_.size() < tensors_.size() && tensor.sizes() == tensors_[hashes_.size()].shape,
                 "the tensor is the next one declared");
  append_rows(tensor);
}

void TensorFileWriter::append_rows(const at::Tensor& rows) {
  MORAINE_ASSERT(hashes_.size() < tensors_.size(), "the rows are of a declared tensor");
  const at::IntArrayRef shape = tensors_[hashes_.size()].shape;
  const at::Tensor values = rows.detach().to(at::kCPU).contiguous();
  MORAINE_ASSERT(values.scalar_type() == at::kFloat && values.sizes().slice(1) == shape.slice(1) &&
                     rows_done_ + values.size(0) <= shape[0],
                 "the rows are the next ones of the declared tensor");
  const std::span bytes(static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes());
  if (!begun_) begun_ = std::make_unique<Hasher>();
  begun_->update(bytes);
  stream_.append(bytes);
  rows_done_ += values.size(0);
  if (rows_done_ < shape[0]) return;
  hashes_.push_back(begun_->digest());
  begun_.reset();
  rows_done_ = 0;
}

void TensorFileWriter::finish() {
  stream_.finish();
  const SafetensorsHeader header = read_safetensors_header(path_);
  const File file(path_);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const SafetensorsEntry& entry =
        header.entries.at(i);  // none is empty, so they follow each other as they were declared
    if (entry.name != tensors_[i].name || entry.shape != tensors_[i].shape ||
        hash_range(file, entry.offset, entry.nbytes) != hashes_[i]) {
      throw run_error(path_.string(), "tensor " + tensors_[i].name + " read back differs from the one written",
                      "the storage is faulty; save.dir elsewhere");
    }
  }
}

}  // namespace moraine
