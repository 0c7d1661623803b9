// One optimizer step: micro-batches, token-normalised loss, clipping, update.
#pragma once

#include <vector>

#include "adapter/adapter_state.h"
#include "adapter/optimizer.h"
#include "checkpoint/loaded_model.h"
#include "config/recipe.h"
#include "run/batch.h"

namespace moraine {

struct StepResult {
  double loss = 0;                   // mean over the step's trained tokens, before the update
  double grad_norm = 0;              // before clipping
  double aux_loss = 0;               // of the routers; `loss` holds train.aux_loss_coef times it
  double expert_load_imbalance = 0;  // see RouterLoad
  int64_t tokens = 0;
  int64_t trained_tokens = 0;
  int64_t peak_memory_bytes = 0;  // so far, of the rank that has needed the most
};

// Trains `rows` (the whole step's, the same on every rank) in the micro-batches that `config` says (micro_batch_limit);
// a rank may get none and takes part all the same. All ranks of the world must call this. The loss is the sum of token
// losses over the number of trained tokens of all micro-batches, so its gradient does not depend on how rows are split.
// Throws a run error, before the update, when nothing is trained or the loss or gradient is not finite.
StepResult train_step(LoadedModel& loaded, AdapterState& adapter, AdamW& optimizer,
                      const std::vector<TrainingRow>& rows, const TrainConfig& config, double learning_rate,
                      MeshGroups& groups);

}  // namespace moraine
