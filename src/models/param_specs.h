// How parameters are put together from a checkpoint's tensors: what the families' layouts share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "parallel/layer_image.h"

namespace moraine {

// The parameter `name` of a layer or of the root, stored as the one tensor `tensor`.
ParamSpec stored_whole(const std::string& name, const std::string& tensor, std::vector<int64_t> shape, DType dtype);

// A parameter of all experts, stored as tensors of equal shapes for each of them: of expert e the tensors
// `prefix` + e + suffix, one suffix after another. Shape: [num_experts, suffixes × rows, columns].
ParamSpec stored_by_expert(const std::string& name, const std::string& prefix, const std::vector<std::string>& suffixes,
                           int64_t num_experts, int64_t rows, int64_t columns, DType dtype);

// A matrix that may be quantised, as it is stored: FP8 (E4M3) with a scale for each block, or FP4 (E2M1), two codes a byte
// of I8 (the even column in the low nibble) with a scale for each row's run of 32. value = code × scale.
struct MatrixFormat {
  DType dtype = DType::kF32;         // of the stored elements
  std::optional<DType> scale_dtype;  // nullopt: not quantised
  int64_t block_rows = 0, block_columns = 0;  // of elements that share a scale

  static MatrixFormat plain(DType dtype) { return {dtype, std::nullopt, 0, 0}; }
  static MatrixFormat fp8(DType scale_dtype, int64_t block_rows, int64_t block_columns) {
    return {DType::kF8E4M3, scale_dtype, block_rows, block_columns};
  }
  static MatrixFormat fp4(DType scale_dtype) { return {DType::kI8, scale_dtype, 1, 32}; }

  bool quantized() const { return scale_dtype.has_value(); }
  // As stored: FP4 has half the columns. Quantised formats throw an input error that names `tensor` for a side that is longer
  // than a block but no multiple of it: what its last scale covers is not agreed on (transformers refuses it too).
  int64_t stored_columns(int64_t columns) const { return dtype == DType::kI8 ? columns / 2 : columns; }
  int64_t scale_rows(int64_t rows, const std::string& tensor) const;
  int64_t scale_columns(int64_t columns, const std::string& tensor) const;
};

// The scales of a quantised parameter are a parameter of the same image, called `<its name>_scale`. Returns the parameter
// whose scales `param` holds, nullptr for all else.
const ParamSpec* scaled_param(const ImageSpec& image, const ParamSpec& param);
// The image as it is with base_format bfloat16: quantised parameters in BF16, dequantised while they are read, and no scales.
ImageSpec dequantized_while_read(ImageSpec image);
// Numbers of the model in `param`: FP4 counts two a byte; scales and tables of integers count none.
uint64_t count_parameters(const ImageSpec& image, const ParamSpec& param);

}  // namespace moraine
