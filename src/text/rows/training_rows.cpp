#include "text/rows/training_rows.h"

#include <algorithm>

namespace moraine {

int64_t count_trained_tokens(const Sample& sample) {
  if (sample.labels.empty()) return 0;
  return std::count_if(sample.labels.begin() + 1, sample.labels.end(),
                       [](int64_t label) { return label != kNotTrained; });
}

}  // namespace moraine
