#include "run/batch.h"

#include "base/bytes.h"
#include "nn/dropout.h"
#include "tensor/to_device.h"

namespace moraine {

Batch make_batch(const std::vector<const Sample*>& samples, at::Device device, int64_t length_alignment,
                 const std::vector<uint64_t>& dropout_keys) {
  Batch batch;
  std::vector<int64_t> ids, positions, targets, fillers, token_keys;
  for (size_t s = 0; s < samples.size(); ++s) {
    const Sample* sample = samples[s];
    if (sample->input_ids.empty()) continue;
    ids.insert(ids.end(), sample->input_ids.begin(), sample->input_ids.end());
    positions.insert(positions.end(), sample->position_ids.begin(), sample->position_ids.end());
    targets.insert(targets.end(), sample->labels.begin() + 1, sample->labels.end());
    const int64_t end = static_cast<int64_t>(round_up(ids.size(), length_alignment));
    const int64_t next_position = positions.back() + 1;
    for (int64_t i = static_cast<int64_t>(ids.size()); i < end; ++i) {
      positions.push_back(next_position);
      fillers.push_back(i);
      ids.push_back(ids.back());
    }
    targets.resize(end, kNotTrained);
    const int64_t begin = batch.cu_seqlens.back();
    for (int64_t i = begin; i < end && !dropout_keys.empty(); ++i)
      token_keys.push_back(dropout_token_key(dropout_keys[s], i - begin));
    batch.cu_seqlens.push_back(end);
  }
  batch.input_ids_T = to_device(ids, device);
  batch.position_ids_T = to_device(positions, device);
  batch.targets_T = to_device(targets, device);
  if (!dropout_keys.empty()) batch.dropout_keys_T = to_device(token_keys, device);
  if (!fillers.empty()) {
    batch.real_T = at::ones({batch.num_tokens()}, at::TensorOptions().dtype(at::kBool).device(device));
    batch.real_T.index_fill_(0, to_device(fillers, device), false);
  }
  return batch;
}

}  // namespace moraine
