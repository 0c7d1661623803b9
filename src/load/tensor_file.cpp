#include "load/tensor_file.h"

#include "base/file.h"
#include "parallel/torch_dtype.h"

namespace moraine {

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
    entries.push_back({name, from_torch_dtype(t.scalar_type()), t.sizes().vec(),
                       {static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes()}});
  }
  write_safetensors(path, std::move(entries), metadata);
}

}  // namespace moraine
