// Sequences as a padding-free Batch.
#pragma once

#include <vector>

#include "models/model.h"
#include "text/rows/training_rows.h"

namespace moraine {

// Lays the samples end to end. The target of a token is the next token's label within its sample; the last one has
// none. Each sequence is filled up on the right to a multiple of `length_alignment` with tokens that are not trained;
// attention is causal, so the others do not see them.
Batch make_batch(const std::vector<const Sample*>& samples, at::Device device, int64_t length_alignment);

}  // namespace moraine
