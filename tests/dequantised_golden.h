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

// The tensor `name` of a checkpoint, in `dtype` where it is quantised (of DeepSeek-V4 always exact in bf16): the
// reference's dequantised one where it is among the goldens (one layer is), else by tensor operations that
// nn/quantized_weight_test holds against them.
inline at::Tensor plain_tensor_of(const CheckpointIndex& index, const std::string& name,
                                  at::ScalarType dtype = at::kBFloat16) {
  const std::filesystem::path file = index.folder.parent_path() / "dequantised.safetensors";
  if (std::filesystem::exists(file)) {
    const SafetensorsHeader dequantised = read_safetensors_header(file);
    if (const SafetensorsEntry* entry = dequantised.find(name)) return read_tensor(dequantised, *entry);
  }
  const at::Tensor stored = tensor_of(index, name);
  if (stored.scalar_type() != at::kChar && stored.scalar_type() != at::kFloat8_e4m3fn) return stored;
  const std::string stem = name.substr(0, name.rfind('.'));
  if (index.find(stem + ".weight_scale_inv")) {  // of blocks of 128 × 128, the last ones cut off
    const at::Tensor factors = tensor_of(index, stem + ".weight_scale_inv").to(at::kFloat);
    const at::Tensor by_row = factors.repeat_interleave(128, 0).narrow(0, 0, stored.size(0));
    return (stored.to(at::kFloat) * by_row.repeat_interleave(128, 1).narrow(1, 0, stored.size(1))).to(dtype);
  }
  const at::Tensor scales = tensor_of(index, stem + ".scale");
  const bool fp4 = stored.scalar_type() == at::kChar;
  return dequantize_by_tensor_ops(
      {stored, scales, fp4 ? QuantFormat::fp4(DType::kF8E8M0) : QuantFormat{DType::kF8E4M3, DType::kF8E8M0, 128, 128}},
      dtype);
}

}  // namespace moraine
