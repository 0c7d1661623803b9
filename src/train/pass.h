// One pass of a micro-batch through the model: the explicit layer loop, forwards and backwards.
#pragma once

#include <vector>

#include "adapter/adapter_state.h"
#include "models/loaded_model.h"
#include "nn/loss.h"

namespace moraine {

// The input of the output head, [T, D], without gradients. `adapter` may be null; `caches` (one a layer) only when
// generating.
at::Tensor forward(LoadedModel& loaded, const AdapterState* adapter, const Batch& batch,
                   std::vector<KvCache>* caches = nullptr);

enum class Recompute {
  kFull,  // keep only each layer's input; run the layer again in the backward pass
  kNone,  // keep every layer's activations
};

// Loss of the batch and, added to the adapter's gradients, d (loss_scale · Σ token losses) / d adapter.
LossResult forward_backward(LoadedModel& loaded, AdapterState& adapter, const Batch& batch, double loss_scale,
                            Recompute recompute);

}  // namespace moraine
