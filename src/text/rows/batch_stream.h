// Which rows a step trains, in which order, on which rank: a pure function of (seed, step), the same on every rank and
// machine.
#pragma once

#include <cstdint>
#include <vector>

namespace moraine {

class BatchStream {
 public:
  // Rows 0 … num_rows-1, `batch_size` a step over the whole world, reshuffled every epoch from `seed` when `shuffle`;
  // else in order and from the start again. A batch never spans a reshuffle's end differently on different meshes: rows
  // form one endless sequence (epoch after epoch) that is cut into batches.
  BatchStream(int64_t num_rows, int64_t batch_size, uint64_t seed, bool shuffle);

  // The rows of step `step` (from 0), in order: `batch_size` of them. Keeps the last epoch's order, so one object must
  // not be asked from two threads at once.
  std::vector<int64_t> rows_of_step(int64_t step) const;

 private:
  std::vector<int64_t> permutation_of_epoch(int64_t epoch) const;
  int64_t num_rows_, batch_size_;
  uint64_t seed_;
  bool shuffle_;
  mutable int64_t cached_epoch_ = -1;
  mutable std::vector<int64_t> cached_permutation_;
};

// How a step's rows are dealt: micro-step m of rank r gets rows [(m·world + r)·micro_batch_size, …) of the batch. Every
// rank runs the same number of micro-steps; a rank may get none of the rows.
int64_t num_micro_steps(int64_t batch_size, int64_t micro_batch_size, int64_t world_size);
struct RowRange {
  int64_t begin, end;  // of the batch
};
RowRange rows_of_micro_step(int64_t batch_size, int64_t micro_step, int64_t rank, int64_t world_size,
                            int64_t micro_batch_size);
// How many rows the rank gets in all micro-steps together.
int64_t num_rows_of_step(int64_t batch_size, int64_t rank, int64_t world_size, int64_t micro_batch_size);

}  // namespace moraine
