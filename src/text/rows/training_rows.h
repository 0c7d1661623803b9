// Rows of a batch as the sequences in them; models lay them out as tensors (run/batch).
#pragma once

#include <cstdint>
#include <vector>

#include "text/rows/dataset.h"

namespace moraine {

// The sequences that share a row of the batch: one, or several when they are packed.
using TrainingRow = std::vector<const Sample*>;

// Tokens of `sample` that will be trained: labels that are not kNotTrained, without the first, before
// which nothing comes.
int64_t count_trained_tokens(const Sample& sample);

}  // namespace moraine
