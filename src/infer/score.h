// Loss (and logits, and adapter gradients) of a tokens file, without training; on one rank or many.
#pragma once

#include <optional>

#include "adapter/adapter_state.h"
#include "checkpoint/loaded_model.h"
#include "text/rows/dataset.h"

namespace moraine {

struct ScoreResult {
  double loss = 0;  // mean over the trained tokens
  int64_t trained_tokens = 0;
  // On rank 0 only.
  at::Tensor token_loss;  // fp32 [B, T-1]; 0 where nothing is trained
  at::Tensor logits;      // fp32 [B, T, V] when asked for; 0 at masked positions
};

struct ScoreOptions {
  bool logits = false;
  bool grads = false;  // leaves d loss / d adapter in the adapter's gradients
};

// All ranks of the world must call this with the same tokens: rows are dealt out in order, one row per rank at a time.
// `adapter` may be null unless grads are asked for; its gradients are then reduced as in training. Throws an input
// error when no token is trained.
ScoreResult score(LoadedModel& loaded, AdapterState* adapter, const TokensFile& tokens, const std::string& where,
                  const ScoreOptions& options, MeshGroups& groups);

}  // namespace moraine
