// One pass of a micro-batch through the model: the explicit layer loop, forwards and backwards.
#pragma once

#include <functional>
#include <vector>

#include "adapter/adapter_state.h"
#include "checkpoint/loaded_model.h"
#include "config/choices.h"
#include "nn/loss.h"

namespace moraine {

// The adapters outside of the layers (kEmbeddingModule, kHeadModule) for a pass over `batch` without gradients;
// `adapter` may be null.
LayerAdapter outer_adapter(const AdapterState* adapter, const Batch& batch);

// The input of the output head, [T, D], without gradients. `adapter` may be null; `caches` (one per layer) only when
// generating. `records`, when wanted, takes what each layer tells of its routing.
at::Tensor forward(LoadedModel& loaded, const AdapterState* adapter, const Batch& batch,
                   std::vector<LayerCache>* caches = nullptr, std::vector<LayerRecord>* records = nullptr);

// Loss of the batch without gradients.
LossResult forward_loss(LoadedModel& loaded, const AdapterState* adapter, const Batch& batch);

// Called between the forward and the backward half of a pass with each layer's record. Returns d loss / d
// probability_sums_E, [E] fp64, the same for all layers, or an undefined tensor: no loss on the routing.
using AfterForward = std::function<at::Tensor(const std::vector<LayerRecord>& records)>;

// Loss of the batch and, added to the adapter's gradients, d (loss_scale · Σ token losses) / d adapter.
LossResult forward_backward(LoadedModel& loaded, AdapterState& adapter, const Batch& batch, double loss_scale,
                            Recompute recompute, const AfterForward& after_forward = {});

}  // namespace moraine
