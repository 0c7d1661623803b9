// Adapters folded into their base model: a checkpoint with W + scaling·B·A in place of every adapted W.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "adapter/weighted_adapters.h"
#include "checkpoint/rewrite_checkpoint.h"

namespace moraine {

struct MergedCheckpoint {
  RewrittenCheckpoint written;
  int64_t linear_layers = 0, embeddings = 0, routers = 0, expert_parameters = 0;  // that were adapted
};

// Writes `out` (missing or empty) whole or not at all: the checkpoint in `model` with `adapters`, one or more (as one:
// open_factors), folded in, its tensors under the same names and in the same dtypes, quantised ones in bfloat16 or,
// with `keep_format`, as rewrite_checkpoint keeps them. scaling·(B·A) is made in fp32, added to W in fp32 and the sum
// rounded once; where W is fp32, these are the operations of PEFT's merge_and_unload. Throws input errors for an
// adapter that is not for this model, and as rewrite_checkpoint does.
MergedCheckpoint merge_adapter(const std::filesystem::path& model, const std::vector<WeightedAdapter>& adapters,
                               const std::filesystem::path& out, uint64_t max_file_bytes, int num_threads,
                               bool keep_format = false);

}  // namespace moraine
