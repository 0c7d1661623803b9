// The quantised golden as plain tensors, by other code than what is tested.
#pragma once

#include "formats/checkpoint_index.h"
#include "golden.h"
#include "nn/quantized_weight.h"

namespace moraine {

inline at::Tensor tensor_of(const CheckpointIndex& index, const std::string& name) {
  const CheckpointTensor* tensor = index.find(name);
  if (!tensor) throw std::runtime_error("no tensor " + name);
  return read_tensor(index.files[tensor->file], tensor->entry);
}

// The tensor `name` of a checkpoint, in bf16 where it is quantised: the reference's dequantised one where it is among the goldens (one
// layer is), else by tensor operations that nn/quantized_weight_test holds against them.
inline at::Tensor plain_tensor_of(const CheckpointIndex& index, const std::string& name) {
  const std::filesystem::path file = index.folder.parent_path() / "dequantised.safetensors";
  if (std::filesystem::exists(file)) {
    const SafetensorsHeader dequantised = read_safetensors_header(file);
    if (const SafetensorsEntry* entry = dequantised.find(name)) return read_tensor(dequantised, *entry);
  }
  const at::Tensor stored = tensor_of(index, name);
  if (stored.scalar_type() != at::kChar && stored.scalar_type() != at::kFloat8_e4m3fn) return stored;
  const at::Tensor scales = tensor_of(index, name.substr(0, name.rfind('.')) + ".scale");
  return dequantize_by_tensor_ops({stored, scales}, at::kBFloat16);
}

}  // namespace moraine
