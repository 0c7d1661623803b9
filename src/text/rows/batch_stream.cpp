#include "text/rows/batch_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/random.h"

namespace moraine {
namespace {

// A stream of draws. The standard library's shuffle and distributions differ from one implementation to the next; an
// order must not.
class Draws {
 public:
  Draws(uint64_t seed, int64_t epoch) : random_(seed, fmt::format("rows of epoch {}", epoch)) {}

  // Uniform in [0, bound), bound > 0, without bias (Lemire: Fast Random Integer Generation in an Interval, 2019).
  uint64_t below(uint64_t bound) {
    using Wide = unsigned __int128;
    Wide product = Wide{next()} * bound;
    if (static_cast<uint64_t>(product) < bound) {
      const uint64_t threshold = (0 - bound) % bound;
      while (static_cast<uint64_t>(product) < threshold) product = Wide{next()} * bound;
    }
    return static_cast<uint64_t>(product >> 64);
  }

 private:
  uint64_t next() { return random_.bits(count_++); }

  CounterRandom random_;
  uint64_t count_ = 0;
};

}  // namespace

BatchStream::BatchStream(int64_t num_rows, int64_t batch_size, uint64_t seed, bool shuffle)
    : num_rows_(num_rows), batch_size_(batch_size), seed_(seed), shuffle_(shuffle) {
  MORAINE_ASSERT(num_rows > 0 && batch_size > 0, "a batch stream needs rows and a batch size");
}

// Fisher-Yates over 0 … num_rows-1, from the last place down, drawing from a stream of (seed, epoch).
std::vector<int64_t> BatchStream::permutation_of_epoch(int64_t epoch) const {
  std::vector<int64_t> rows(static_cast<size_t>(num_rows_));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  if (!shuffle_) return rows;
  Draws draws(seed_, epoch);
  for (size_t i = rows.size(); i > 1; --i) std::swap(rows[i - 1], rows[draws.below(i)]);
  return rows;
}

std::vector<int64_t> BatchStream::rows_of_step(int64_t step) const {
  MORAINE_ASSERT(step >= 0, "steps count from 0");
  std::vector<int64_t> batch;
  batch.reserve(static_cast<size_t>(batch_size_));
  // Position `at` of the endless sequence, split so that step · batch_size cannot overflow.
  const __int128 at = static_cast<__int128>(step) * batch_size_;
  int64_t epoch = static_cast<int64_t>(at / num_rows_), row = static_cast<int64_t>(at % num_rows_);
  while (static_cast<int64_t>(batch.size()) < batch_size_) {
    if (epoch != cached_epoch_) {
      cached_permutation_ = permutation_of_epoch(epoch);
      cached_epoch_ = epoch;
    }
    const int64_t count = std::min(num_rows_ - row, batch_size_ - static_cast<int64_t>(batch.size()));
    batch.insert(batch.end(), cached_permutation_.begin() + row, cached_permutation_.begin() + row + count);
    row = 0;
    ++epoch;
  }
  return batch;
}

int64_t num_micro_steps(int64_t batch_size, int64_t micro_batch_size, int64_t world_size) {
  const int64_t rows_a_micro_step = micro_batch_size * world_size;
  return (batch_size + rows_a_micro_step - 1) / rows_a_micro_step;
}

RowRange rows_of_micro_step(int64_t batch_size, int64_t micro_step, int64_t rank, int64_t world_size,
                            int64_t micro_batch_size) {
  MORAINE_ASSERT(rank >= 0 && rank < world_size && micro_step >= 0, "no such rank or micro-step");
  const int64_t begin = std::min(batch_size, (micro_step * world_size + rank) * micro_batch_size);
  return {begin, std::min(batch_size, begin + micro_batch_size)};
}

int64_t num_rows_of_step(int64_t batch_size, int64_t rank, int64_t world_size, int64_t micro_batch_size) {
  // Every rank is full in all micro-steps but the last.
  const int64_t last = num_micro_steps(batch_size, micro_batch_size, world_size) - 1;
  const RowRange rows = rows_of_micro_step(batch_size, last, rank, world_size, micro_batch_size);
  return last * micro_batch_size + rows.end - rows.begin;
}

}  // namespace moraine
