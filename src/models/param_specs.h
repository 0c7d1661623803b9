// How parameters are put together from a checkpoint's tensors: what the families' layouts share.
#pragma once

#include <cstdint>
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

// The parameter whose scales `param`, which is one of an image's, holds: the one before it. nullptr for all else.
const ParamSpec* scaled_param(const ParamSpec& param);
// The image as it is with base_format bfloat16: quantised parameters in BF16, dequantised while they are read, and no
// scales.
ImageSpec dequantized_while_read(ImageSpec image);
// Numbers of the model in `param`: FP4 counts two a byte; scales and tables of integers count none.
uint64_t count_parameters(const ParamSpec& param);

}  // namespace moraine
