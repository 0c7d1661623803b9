#include "plan/layer_run.h"

#include <algorithm>

#include "models/layer_tape.h"

namespace moraine {

LayerRun measure_layer(const Model& model, int64_t layer, const ImageView& dense, const ImageView& experts,
                       const AdapterState& adapter, const ForwardContext& context, const at::Tensor& hidden,
                       AllocationCount& memory, OperatorCount* operators) {
  at::NoGradGuard no_grad;
  const auto work_so_far = [&] { return operators ? operators->take() : DeviceWork(); };
  const at::Tensor& keys_T = context.batch->dropout_keys_T;
  LayerRun run;
  LayerRecord record;
  memory.forget_peak();
  work_so_far();
  {
    const LayerAdapter frozen = adapter.layer_adapter(layer, AdapterState::Gradients::kNo, keys_T);
    const at::Tensor output = model.forward_layer({layer, dense, experts, frozen, context, record}, hidden);
    run.output = static_cast<int64_t>(output.nbytes());
  }
  const int64_t first_peak = memory.peak(), with_record = memory.live();
  run.largest = memory.largest();
  run.forward_work = work_so_far();
  {
    const LayerAdapter trained = adapter.layer_adapter(layer, AdapterState::Gradients::kAdd, keys_T);
    const at::Tensor grad_output = at::empty_like(hidden);
    const int64_t before = memory.live();
    memory.forget_peak();
    work_so_far();
    const LayerTape tape = run_with_tape(model, {layer, dense, experts, trained, context, record}, hidden);
    run.taped_forward_most = memory.peak() - before;
    run.tape = memory.live() - before;
    run.largest = std::max(run.largest, memory.largest());
    memory.forget_peak();
    run.again_work = work_so_far();
    backward_of_tape(tape, grad_output, {});
    run.backward_work = work_so_far();
    run.backward_most = memory.peak() - before;
    run.largest = std::max(run.largest, memory.largest());
  }
  record = {};
  run.record = with_record - memory.live();
  run.forward_most = first_peak - memory.live();
  return run;
}

HeadRun measure_head(const Model& model, const ImageView& root, const AdapterState& adapter, const at::Tensor& hidden,
                     const Batch& batch, AllocationCount& memory, OperatorCount* operators) {
  at::NoGradGuard no_grad;
  const int64_t before = memory.live();
  memory.forget_peak();
  if (operators) operators->take();
  const LayerAdapter outer = adapter.outer_adapter(AdapterState::Gradients::kAdd, batch.dropout_keys_T);
  const HeadResult head = run_head(model, root, hidden, batch.targets_T, /*loss_scale=*/1.0, outer.find(kHeadModule));
  return {memory.live() - before, memory.peak() - before, operators ? operators->take() : DeviceWork()};
}

int64_t measure_embedding(const Model& model, const ImageView& root, const AdapterState& adapter,
                          const at::Tensor& hidden, const Batch& batch, AllocationCount& memory) {
  const LayerAdapter outer = adapter.outer_adapter(AdapterState::Gradients::kAdd);
  const LoraPair* pair = outer.find(kEmbeddingModule);
  if (!pair) return 0;
  at::NoGradGuard no_grad;
  const at::Tensor grad_output = at::empty_like(hidden);
  const int64_t before = memory.live();
  memory.forget_peak();
  backward_of_embedding(model, root, batch, *pair, grad_output);
  return memory.peak() - before;
}

}  // namespace moraine
