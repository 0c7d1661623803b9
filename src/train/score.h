// Loss (and logits, and adapter gradients) of a tokens file, without training.
#pragma once

#include <optional>

#include "adapter/adapter_state.h"
#include "data/dataset.h"
#include "models/loaded_model.h"

namespace moraine {

struct ScoreResult {
  double loss = 0;               // mean over the trained tokens
  int64_t trained_tokens = 0;
  at::Tensor token_loss;         // fp32 [B, T-1]; 0 where nothing is trained
  at::Tensor logits;             // fp32 [B, T, V] when asked for; 0 at masked positions
};

struct ScoreOptions {
  bool logits = false;
  bool grads = false;  // leaves d loss / d adapter in the adapter's gradients
};

// `adapter` may be null unless grads are asked for. Throws an input error when no token is trained.
ScoreResult score(LoadedModel& loaded, AdapterState* adapter, const TokensFile& tokens, const std::string& where,
                  const ScoreOptions& options);

}  // namespace moraine
