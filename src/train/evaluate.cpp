#include "train/evaluate.h"

#include <chrono>

#include "train/pass.h"

namespace moraine {

EvalResult evaluate(LoadedModel& loaded, const AdapterState& adapter, const std::vector<TrainingRow>& rows,
                    const MicroBatchLimit& limit, MeshGroups& groups) {
  at::NoGradGuard no_grad;
  const auto start = std::chrono::steady_clock::now();
  EvalResult result;
  for (const TrainingRow& row : rows)
    for (const Sample* sample : row) result.trained_tokens += count_trained_tokens(*sample);
  const int64_t rank = groups.world->rank(), world_size = groups.world->size();
  at::Tensor loss_sum = at::zeros({1}, at::TensorOptions().dtype(at::kDouble));
  const MicroBatches micro_batches(rows, limit, world_size);
  for (int64_t micro_step = 0; micro_step < micro_batches.count(); ++micro_step) {
    const auto samples = micro_batches.samples_of(micro_step, rank);
    loss_sum += forward_loss(loaded, &adapter, make_batch(samples, loaded.device, loaded.row_alignment)).loss_sum;
  }
  loss_sum = loss_sum.to(loaded.device);
  groups.world->all_reduce(loss_sum);
  result.loss = loss_sum.item<double>() / static_cast<double>(result.trained_tokens);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace moraine
