// Rows of a batch as the sequences in them, and which rank trains which; models lay them out as tensors (run/batch).
#pragma once

#include <cstdint>
#include <vector>

#include "text/rows/dataset.h"

namespace moraine {

// The sequences that share a row of the batch: one, or several when they are packed.
using TrainingRow = std::vector<const Sample*>;

// The sequences of the rows that `rank` takes in a micro-step of `rows` (see rows_of_micro_step); none is possible.
std::vector<const Sample*> samples_of_micro_step(const std::vector<TrainingRow>& rows, int64_t micro_step, int64_t rank,
                                                 int64_t world_size, int64_t micro_batch_size);

// Tokens of `sample` that will be trained: labels that are not kNotTrained, without the first, before
// which nothing comes.
int64_t count_trained_tokens(const Sample& sample);

}  // namespace moraine
