#include "text/rows/micro_batches.h"

#include <algorithm>

#include "base/error.h"

namespace moraine {
namespace {

std::vector<RowRange> fill_in_order(const std::vector<int64_t>& row_tokens, int64_t most) {
  std::vector<RowRange> ranges;
  int64_t tokens = 0;
  for (int64_t row = 0; row < static_cast<int64_t>(row_tokens.size()); ++row) {
    if (ranges.empty() || tokens + row_tokens[row] > most) {
      ranges.push_back({row, row});
      tokens = 0;
    }
    ranges.back().end = row + 1;
    tokens += row_tokens[row];
  }
  return ranges;
}

int64_t tokens_of(const TrainingRow& row) {
  int64_t tokens = 0;
  for (const Sample* sample : row) tokens += static_cast<int64_t>(sample->input_ids.size());
  return tokens;
}

}  // namespace

MicroBatchLimit micro_batch_limit(const TrainConfig& config) {
  MicroBatchLimit limit{config.micro_batch_size.value_or(1)};
  MORAINE_ASSERT(config.micro_batch_tokens.kind != MicroBatchTokens::Kind::kAuto, "auto has been worked out");
  if (config.micro_batch_tokens.kind == MicroBatchTokens::Kind::kTokens)
    limit.tokens = config.micro_batch_tokens.tokens;
  return limit;
}

std::vector<RowRange> cut_by_tokens(const std::vector<int64_t>& row_tokens, int64_t most, int64_t world_size) {
  MORAINE_ASSERT(most >= 1 && world_size >= 1, "a micro-batch holds tokens of a rank");
  const auto fewest = static_cast<int64_t>(fill_in_order(row_tokens, most).size());
  const int64_t allowed = (fewest + world_size - 1) / world_size * world_size;
  // Filling in order takes the fewest ranges of any limit, and no more with a larger limit.
  int64_t too_small = 0, enough = most;
  while (enough - too_small > 1) {
    const int64_t middle = too_small + (enough - too_small) / 2;
    (static_cast<int64_t>(fill_in_order(row_tokens, middle).size()) <= allowed ? enough : too_small) = middle;
  }
  return fill_in_order(row_tokens, enough);
}

MicroBatches::MicroBatches(const std::vector<TrainingRow>& rows, const MicroBatchLimit& limit, int64_t world_size)
    : rows_(rows), limit_(limit), world_size_(world_size) {
  if (!limit.tokens) return;
  std::vector<int64_t> row_tokens;
  for (const TrainingRow& row : rows) row_tokens.push_back(tokens_of(row));
  by_tokens_ = cut_by_tokens(row_tokens, *limit.tokens, world_size);
}

int64_t MicroBatches::count() const {
  return limit_.tokens ? num_micro_steps(static_cast<int64_t>(by_tokens_.size()), 1, world_size_)
                       : num_micro_steps(static_cast<int64_t>(rows_.size()), limit_.rows, world_size_);
}

RowRange MicroBatches::rows_of(int64_t micro_step, int64_t rank) const {
  const auto num_rows = static_cast<int64_t>(rows_.size());
  if (!limit_.tokens) return rows_of_micro_step(num_rows, micro_step, rank, world_size_, limit_.rows);
  const int64_t place = micro_step * world_size_ + rank;
  return place < static_cast<int64_t>(by_tokens_.size()) ? by_tokens_[place] : RowRange{num_rows, num_rows};
}

std::vector<const Sample*> MicroBatches::samples_of(int64_t micro_step, int64_t rank) const {
  const RowRange range = rows_of(micro_step, rank);
  std::vector<const Sample*> samples;
  for (int64_t row = range.begin; row < range.end; ++row)
    samples.insert(samples.end(), rows_[row].begin(), rows_[row].end());
  return samples;
}

}  // namespace moraine
