#include "text/rows/training_rows.h"

#include <algorithm>

#include "text/rows/batch_stream.h"

namespace moraine {

std::vector<const Sample*> samples_of_micro_step(const std::vector<TrainingRow>& rows, int64_t micro_step, int64_t rank,
                                                 int64_t world_size, int64_t micro_batch_size) {
  const RowRange range =
      rows_of_micro_step(static_cast<int64_t>(rows.size()), micro_step, rank, world_size, micro_batch_size);
  std::vector<const Sample*> samples;
  for (int64_t row = range.begin; row < range.end; ++row)
    samples.insert(samples.end(), rows[row].begin(), rows[row].end());
  return samples;
}

int64_t count_trained_tokens(const Sample& sample) {
  if (sample.labels.empty()) return 0;
  return std::count_if(sample.labels.begin() + 1, sample.labels.end(),
                       [](int64_t label) { return label != kNotTrained; });
}

}  // namespace moraine
