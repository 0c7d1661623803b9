// Sequences as a padding-free Batch.
#pragma once

#include <cstdint>
#include <vector>

#include "models/model.h"
#include "text/rows/training_rows.h"

namespace moraine {

// Lays the samples end to end. The target of a token is the next token's label within its sample; the last one has
// none. Each sequence is filled up on the right to a multiple of `length_alignment` with tokens that are not trained;
// attention is causal, so the others do not see them.
//
// `dropout_keys`: one for each sample (dropout_sequence_key), or none, and then there is no dropout.
Batch make_batch(const std::vector<const Sample*>& samples, at::Device device, int64_t length_alignment,
                 const std::vector<uint64_t>& dropout_keys = {});

}  // namespace moraine
