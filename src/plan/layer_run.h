// A layer, and the output head, run once for what they hold and do.
//
// They run as train/pass runs them (models/layer_tape), on tensors of any device whose allocations are counted: on meta
// tensors for plans (tensor/planned_tensors), on the CPU to compare.
#pragma once

#include <cstdint>

#include "adapter/adapter_state.h"
#include "models/model.h"
#include "plan/operator_count.h"
#include "tensor/allocation_count.h"

namespace moraine {

// Bytes of tensors. `most`: the most at any moment of a run, above what there was before it.
struct LayerRun {
  int64_t output = 0;                                  // what goes on to the next layer
  int64_t record = 0;                                  // the layer's LayerRecord
  int64_t forward_most = 0;                            // without autograd: output and, as it is the first run, record
  int64_t tape = 0;                                    // kept by autograd, the output among it
  int64_t taped_forward_most = 0;                      // under autograd, the record known
  int64_t backward_most = 0;                           // of the backward pass, tape and the input's gradient among it
  int64_t largest = 0;                                 // of its tensors
  DeviceWork forward_work, again_work, backward_work;  // without autograd, under autograd, and backwards
};
// `hidden`: what the layer takes. Weights, adapter, and what `context` shares between layers are not counted.
// `operators`: null leaves the work out, which is of meta tensors alone.
LayerRun measure_layer(const Model& model, int64_t layer, const ImageView& dense, const ImageView& experts,
                       const AdapterState& adapter, const ForwardContext& context, const at::Tensor& hidden,
                       AllocationCount& memory, OperatorCount* operators = nullptr);

struct HeadRun {
  int64_t kept = 0;  // the gradient of what the last layer returned, and each token's loss
  int64_t most = 0;
  DeviceWork work;
};
// `adapter`: may have the head's.
HeadRun measure_head(const Model& model, const ImageView& root, const AdapterState& adapter, const at::Tensor& hidden,
                     const Batch& batch, AllocationCount& memory, OperatorCount* operators = nullptr);
// The most bytes that the backward pass of the embedding's adapter takes, the output's gradient not among them; 0
// without one.
int64_t measure_embedding(const Model& model, const ImageView& root, const AdapterState& adapter,
                          const at::Tensor& hidden, const Batch& batch, AllocationCount& memory);

}  // namespace moraine
