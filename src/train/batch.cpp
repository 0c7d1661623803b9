#include "train/batch.h"

#include <algorithm>

namespace moraine {
namespace {

at::Tensor to_device(const std::vector<int64_t>& values, at::Device device) {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(device);
}

}  // namespace

Batch make_batch(const std::vector<const Sample*>& samples, at::Device device) {
  Batch batch;
  std::vector<int64_t> ids, positions, targets;
  for (const Sample* sample : samples) {
    const int64_t length = static_cast<int64_t>(sample->input_ids.size());
    if (length == 0) continue;
    ids.insert(ids.end(), sample->input_ids.begin(), sample->input_ids.end());
    positions.insert(positions.end(), sample->position_ids.begin(), sample->position_ids.end());
    targets.insert(targets.end(), sample->labels.begin() + 1, sample->labels.end());
    targets.push_back(-100);
    batch.cu_seqlens.push_back(batch.cu_seqlens.back() + length);
  }
  batch.input_ids_T = to_device(ids, device);
  batch.position_ids_T = to_device(positions, device);
  batch.targets_T = to_device(targets, device);
  return batch;
}

int64_t count_trained_tokens(const Sample& sample) {
  if (sample.labels.empty()) return 0;
  return std::count_if(sample.labels.begin() + 1, sample.labels.end(), [](int64_t label) { return label != -100; });
}

}  // namespace moraine
