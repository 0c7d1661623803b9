// A checkpoint's tensors as they would be without quantisation: which there are, of what shape and dtype, and what each
// is made of.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/checkpoint_index.h"
#include "models/quantization.h"
#include "parallel/layer_image.h"

namespace moraine {

struct PlainTensor {
  std::string name;                          // as in the checkpoint; of MXFP4 without "_blocks"
  std::vector<int64_t> shape;                // of the plain tensor: FP4 is stored with half the columns
  DType dtype = DType::kF32;                 // of the plain tensor
  int64_t columns = 1;                       // its last dim; 1 for a number alone
  const CheckpointTensor* values = nullptr;  // of the index
  const CheckpointTensor* scales = nullptr;  // null: not quantised
  QuantFormat format = {};                   // of values, where quantised
  // Of MXFP4: plain it is [E, I, O], but stored are its matrices [O, I].
  bool transposed = false;
  // Of the quantised matrices as they are stored, those of experts one below another.
  int64_t matrix_rows() const { return transposed ? shape[0] * shape[2] : shape[0]; }
  int64_t matrix_columns() const { return transposed ? shape[1] : columns; }
};

// The tensors of `index` in the order of its files, without scales. `specs` is what config.json implies of it in
// bfloat16, `quantization` how its tensors may be quantised, those too that no image holds (null: none is); the
// checkpoint has passed check_checkpoint. `dtype`, F32 or BF16, is what weights become: quantised ones, and those of
// the dtype that the embedding is stored in, unless the family keeps them in fp32. nullopt: BF16 where it is quantised,
// else as it is stored. Throws an input error for a quantised tensor without usable scales.
std::vector<PlainTensor> plain_tensors(const CheckpointIndex& index, const std::vector<ImageSpec>& specs,
                                       const Quantization* quantization, std::optional<DType> dtype);

}  // namespace moraine
