// A checkpoint written anew under the names it has: quantised weights dequantised, others as they are or in another
// dtype, some of them changed on the way. One process, tensor by tensor: no more of the weights is in memory than a few
// buffers.
//
// Shape suffixes: R rows of a matrix or of experts' matrices one after another, I input features.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/opened_checkpoint.h"
#include "formats/dtype.h"

namespace moraine {

// Changes rows of a tensor's matrices in place, fp32: those from `first_row` on. Called from several threads, for every
// row once. Of MXFP4 (models/quantization.h) the rows of the matrices as they are written: of the plain tensor, or,
// with keep_format, of the stored ones.
using ChangeRows = std::function<void(int64_t first_row, const at::Tensor& rows_RI)>;

struct RewriteOptions {
  // What weights become, BF16 or F32. Tensors that the family keeps in fp32 beside bfloat16 weights (DeepSeek-V4's
  // hyper-connections, sinks and biases; what a release stores in fp32 though its embedding is not) stay so. nullopt:
  // every tensor as it is stored, bfloat16 where it is quantised.
  std::optional<DType> dtype;
  std::unordered_map<std::string, ChangeRows> changes = {};  // by tensor of the checkpoint, MXFP4's by its codes
  // Quantised tensors stay so, with their scales and config.json's quantization_config: those that change are quantised
  // anew (tensor/quantize), others keep their bytes. Without `dtype`.
  bool keep_format = false;
  uint64_t max_file_bytes = 5'000'000'000;
  int num_threads = 1;
};

// How far the values of a tensor that was quantised anew are from what they should be.
struct QuantizationError {
  std::string tensor;
  double largest = 0;  // difference, of the largest value
  double rms = 0;      // of the differences, of the values' root mean square
};

struct RewrittenCheckpoint {
  uint64_t tensors = 0, bytes = 0, files = 0;
  uint64_t dequantized = 0;                         // tensors
  uint64_t converted = 0;                           // tensors of other dtypes than before, besides those
  std::vector<QuantizationError> requantized = {};  // with keep_format, the worst first
};

// Of a checkpoint that was opened with dtype bfloat16 and weights as they are stored. Writes `out` (missing or empty)
// whole or not at all: all tensors but scales, those that moraine skips too; config.json, without quantization_config
// where nothing is quantised any more; the other files of the checkpoint's folder that are not weights. Throws input
// errors for anything wrong with the checkpoint or `out`, a run error for values that are not finite after a change, or
// a full disk.
RewrittenCheckpoint rewrite_checkpoint(const OpenedCheckpoint& checkpoint, const std::filesystem::path& out,
                                       const RewriteOptions& options);

}  // namespace moraine
