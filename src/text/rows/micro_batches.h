// A step's rows as micro-batches: what each rank trains in each pass, by rows or by tokens. A pure function of the
// rows' lengths and the number of ranks, so all ranks agree on it, and on how many passes there are.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "config/recipe.h"
#include "text/rows/batch_stream.h"
#include "text/rows/training_rows.h"

namespace moraine {

// The most that a micro-batch holds: so many rows, or with `tokens` as many rows as fit, at least one.
struct MicroBatchLimit {
  int64_t rows = 1;
  std::optional<int64_t> tokens = {};
};
// As the recipe says; auto must have been worked out (train/micro_batch_tokens).
MicroBatchLimit micro_batch_limit(const TrainConfig& config);

// Rows of `row_tokens` tokens each, in their order, cut into micro-batches of at most `most` tokens or of a single row.
// As many as `world_size` ranks need for the fewest passes, or fewer, and as even as that allows: no smaller limit than
// that of the result would do with as many passes.
std::vector<RowRange> cut_by_tokens(const std::vector<int64_t>& row_tokens, int64_t most, int64_t world_size);

class MicroBatches {
 public:
  // `rows`: the whole step's, the same on every rank; they outlive this.
  MicroBatches(const std::vector<TrainingRow>& rows, const MicroBatchLimit& limit, int64_t world_size);

  // How many each rank has; some of a rank's may have no rows.
  int64_t count() const;
  RowRange rows_of(int64_t micro_step, int64_t rank) const;
  // The sequences of those rows.
  std::vector<const Sample*> samples_of(int64_t micro_step, int64_t rank) const;

 private:
  const std::vector<TrainingRow>& rows_;
  MicroBatchLimit limit_;
  int64_t world_size_;
  std::vector<RowRange> by_tokens_;  // those of rank 0, 1, … in the first pass, then the second's
};

}  // namespace moraine
