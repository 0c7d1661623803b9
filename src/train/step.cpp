#include "train/step.h"

#include <cmath>

#include "adapter/adapter_collectives.h"
#include "base/error.h"
#include "distributed/collectives/device.h"
#include "nn/dropout.h"
#include "text/rows/micro_batches.h"
#include "train/pass.h"
#include "train/router_load.h"

namespace moraine {
namespace {

// Of the sequences in `own` rows: a sequence's number is its place in the whole step.
std::vector<uint64_t> dropout_keys(const std::vector<TrainingRow>& rows, RowRange own, uint64_t seed, int64_t step) {
  std::vector<uint64_t> keys;
  int64_t sequence = 0;
  for (int64_t row = 0; row < own.end; ++row) {
    for (size_t i = 0; i < rows[row].size(); ++i, ++sequence)
      if (row >= own.begin) keys.push_back(dropout_sequence_key(seed, step, sequence));
  }
  return keys;
}

}  // namespace

StepResult train_step(LoadedModel& loaded, AdapterState& adapter, AdamW& optimizer,
                      const std::vector<TrainingRow>& rows, const TrainConfig& config, double learning_rate,
                      MeshGroups& groups) {
  StepResult result;
  for (const TrainingRow& row : rows) {
    for (const Sample* sample : row) {
      result.tokens += static_cast<int64_t>(sample->input_ids.size());
      result.trained_tokens += count_trained_tokens(*sample);
    }
  }
  if (result.trained_tokens == 0)
    throw run_error("step", "no token of this step is trained", "check the data's labels");

  adapter.zero_grads();
  const int64_t rank = groups.world->rank(), world_size = groups.world->size();
  const MicroBatches micro_batches(rows, micro_batch_limit(config), world_size);
  const int64_t micro_steps = micro_batches.count();
  const auto batch_of = [&](int64_t micro_step) {
    std::vector<uint64_t> keys;
    if (adapter.dropout() > 0)
      keys = dropout_keys(rows, micro_batches.rows_of(micro_step, rank), config.seed, optimizer.num_steps());
    return make_batch(micro_batches.samples_of(micro_step, rank), loaded.device, loaded.row_alignment, keys);
  };
  RouterLoad load(loaded.model->shape(), loaded.device);
  bool load_is_known = false;
  // The auxiliary loss is one of the whole step, so its gradient needs the choices of all ranks and micro-steps: with a
  // single micro-step they are exchanged between the halves of the pass, with several they are counted in forward
  // passes of their own.
  const auto learn_load = [&] {
    load.reduce(*groups.world);
    load_is_known = true;
  };
  if (config.aux_loss_coef > 0 && micro_steps > 1) {
    for (int64_t micro_step = 0; micro_step < micro_steps; ++micro_step) {
      std::vector<LayerRecord> records;
      forward(loaded, &adapter, batch_of(micro_step), nullptr, &records);
      load.add(records);
    }
    learn_load();
  }
  const auto after_forward = [&](const std::vector<LayerRecord>& records) {
    if (!load_is_known) load.add(records);
    if (config.aux_loss_coef == 0) return at::Tensor();
    if (!load_is_known) learn_load();
    return load.aux_loss_gradient_E() * config.aux_loss_coef;
  };
  at::Tensor loss_sum = at::zeros({1}, at::TensorOptions().dtype(at::kDouble));
  for (int64_t micro_step = 0; micro_step < micro_steps; ++micro_step) {
    const double loss_scale = 1.0 / result.trained_tokens;
    loss_sum +=
        forward_backward(loaded, adapter, batch_of(micro_step), loss_scale, config.recompute, after_forward).loss_sum;
  }
  if (!load_is_known) learn_load();
  loss_sum = loss_sum.to(loaded.device);
  groups.world->all_reduce(loss_sum);
  reduce_gradients(adapter, groups);
  result.aux_loss = load.aux_loss();
  result.expert_load_imbalance = load.imbalance();
  result.loss = loss_sum.item<double>() / result.trained_tokens + config.aux_loss_coef * result.aux_loss;
  result.grad_norm = global_gradient_norm(adapter, groups);
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) {
    throw run_error("step", std::isfinite(result.loss) ? "the gradient is not finite" : "the loss is not finite",
                    "lower train.learning_rate, or check the checkpoint's weights");
  }
  // As torch.nn.utils.clip_grad_norm_.
  const double clip = config.max_grad_norm > 0 ? std::min(1.0, config.max_grad_norm / (result.grad_norm + 1e-6)) : 1.0;
  optimizer.step(learning_rate, clip);
  gather_updated_values(adapter, groups);
  at::Tensor peak =
      at::full({1}, static_cast<int64_t>(peak_memory_bytes(loaded.device)), at::TensorOptions().dtype(at::kLong));
  peak = peak.to(loaded.device);
  groups.world->all_reduce(peak, ReduceKind::kMax);
  result.peak_memory_bytes = peak.item<int64_t>();
  return result;
}

}  // namespace moraine
