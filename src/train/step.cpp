#include "train/step.h"

#include <cmath>

#include "base/error.h"
#include "data/batch_stream.h"
#include "train/batch.h"
#include "train/pass.h"

namespace moraine {

StepResult train_step(LoadedModel& loaded, AdapterState& adapter, AdamW& optimizer, const std::vector<const Sample*>& rows,
                      const TrainConfig& config, double learning_rate) {
  StepResult result;
  for (const Sample* row : rows) {
    result.tokens += static_cast<int64_t>(row->input_ids.size());
    result.trained_tokens += count_trained_tokens(*row);
  }
  if (result.trained_tokens == 0) throw run_error("step", "no token of this step is trained", "check the data's labels");

  adapter.zero_grads();
  const Recompute recompute = config.recompute == "none" ? Recompute::kNone : Recompute::kFull;
  const int64_t micro_steps = num_micro_steps(static_cast<int64_t>(rows.size()), config.micro_batch_size, 1);
  double loss_sum = 0;
  for (int64_t micro_step = 0; micro_step < micro_steps; ++micro_step) {
    const size_t begin = micro_step * config.micro_batch_size;
    const size_t end = std::min(begin + config.micro_batch_size, rows.size());
    const Batch batch = make_batch({rows.begin() + begin, rows.begin() + end}, loaded.device, loaded.row_alignment);
    loss_sum += forward_backward(loaded, adapter, batch, 1.0 / result.trained_tokens, recompute).loss_sum;
  }
  result.loss = loss_sum / result.trained_tokens;
  result.grad_norm = gradient_norm(adapter);
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) {
    throw run_error("step", std::isfinite(result.loss) ? "the gradient is not finite" : "the loss is not finite",
                    "lower train.learning_rate, or check the checkpoint's weights");
  }
  // As torch.nn.utils.clip_grad_norm_.
  const double clip = config.max_grad_norm > 0 ? std::min(1.0, config.max_grad_norm / (result.grad_norm + 1e-6)) : 1.0;
  optimizer.step(learning_rate, clip);
  return result;
}

}  // namespace moraine
