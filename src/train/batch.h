// Rows of the data to a padding-free Batch.
#pragma once

#include <vector>

#include "data/dataset.h"
#include "models/model.h"

namespace moraine {

// The sequences that share a row of the batch: one, or several when they are packed.
using TrainingRow = std::vector<const Sample*>;

// The sequences of the rows that `rank` takes in a micro-step of `rows` (see rows_of_micro_step); none is possible.
std::vector<const Sample*> samples_of_micro_step(const std::vector<TrainingRow>& rows, int64_t micro_step, int64_t rank,
                                                 int64_t world_size, int64_t micro_batch_size);

// Lays the samples end to end. The target of a token is the next token's label within its sample; the last one has none.
// Each sequence is filled up on the right to a multiple of `length_alignment` with tokens that are not trained; attention
// is causal, so the others do not see them.
Batch make_batch(const std::vector<const Sample*>& samples, at::Device device, int64_t length_alignment);

// Tokens of `sample` that will be trained: labels from the second one on that are not -100.
int64_t count_trained_tokens(const Sample& sample);

}  // namespace moraine
