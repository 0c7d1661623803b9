#include "checkpoint/tensor_file.h"

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/fingerprint.h"
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
  const at::Tensor values = tensor.detach().to(at::kCPU).contiguous();
  MORAINE_ASSERT(hashes_.size() < tensors_.size() && values.scalar_type() == at::kFloat &&
                     values.sizes() == tensors_[hashes_.size()].shape,
                 "the tensor is the next one declared");
  const std::span bytes(static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes());
  Hasher hasher;
  hasher.update(bytes);
  hashes_.push_back(hasher.digest());
  stream_.append(bytes);
}

void TensorFileWriter::finish() {
  stream_.finish();
  const SafetensorsHeader header = read_safetensors_header(path_);
  const File file(path_);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const SafetensorsEntry& entry =
        header.entries.at(i);  // none is empty, so they follow each other as they were declared
    if (entry.name != tensors_[i].name || hash_range(file, entry.offset, entry.nbytes) != hashes_[i]) {
      throw run_error(path_.string(), "tensor " + tensors_[i].name + " read back differs from the one written",
                      "the storage is faulty; save.dir elsewhere");
    }
  }
}

}  // namespace moraine
