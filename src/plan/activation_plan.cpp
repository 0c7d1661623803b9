#include "plan/activation_plan.h"

#include <algorithm>

#include "parallel/layer_turns.h"

namespace moraine {
namespace {

// For every row count that an expert of the run ever has, at most one for each multiple of the alignment.
double kernel_bytes(const PlannedModel& model, const PlannedRun& run, const PassShape& pass,
                    const ProductKernels& kernels) {
  int64_t routing_layers = 0;
  for (const ImageSpec& spec : model.sizes) routing_layers += spec.kind == ImageKind::kExperts && !spec.params.empty();
  const int64_t alignment = row_alignment(model, pass.device);
  // A token goes to an expert at most once.
  const int64_t row_counts = std::min((pass.world_of_tokens + alignment - 1) / alignment,
                                      routing_layers * pass.local_experts * run.micro_steps());
  return std::min(kMaxKernels, kernels.fixed + kernels.per_row_count * static_cast<double>(row_counts)) * kKernelBytes;
}

}  // namespace

ActivationPlan plan_activations(const PlannedModel& model, const PlannedRun& run, const PassShape& pass) {
  const PassRun& runs = run_pass(model, pass);
  const int64_t num_layers = model.shape.num_hidden_layers, first = model.first_adapted_layer();
  ActivationPlan plan;
  const auto raise = [](double& most, int64_t bytes) { most = std::max(most, static_cast<double>(bytes)); };
  // The moves of train/pass: forward_backward. `live`: what there is, the layer's input among it.
  int64_t live = runs.batch + runs.layers.front().output;
  for (const LayerTurn& turn : forward_turns(num_layers)) {
    const LayerRun& layer = runs.layers[turn.layer];
    const bool trained = turn.layer >= first, keeps_tape = trained && !run.recompute;
    raise(plan.largest, layer.largest);
    raise(plan.forward, live + layer.forward_most);
    if (keeps_tape) raise(plan.forward, live + layer.record + layer.taped_forward_most);
    live += layer.record + (keeps_tape ? layer.tape : layer.output);
    if (!trained) live -= layer.output;  // its input
  }
  raise(plan.head, live + runs.head.most);
  live += runs.head.kept;
  for (const LayerTurn& turn : backward_turns(num_layers, first)) {
    const LayerRun& layer = runs.layers[turn.layer];
    if (run.recompute) {
      raise(plan.backward, live + std::max(layer.taped_forward_most, layer.backward_most));
      live -= layer.output;  // as large as its input, which goes
    } else {
      raise(plan.backward, live - layer.tape + layer.backward_most);
      live -= layer.tape;
    }
  }
  raise(plan.backward, live + runs.embedding);
  for (double* bytes : {&plan.forward, &plan.head, &plan.backward, &plan.largest}) *bytes *= runs.times;
  if (run.device.is_cpu()) plan.kernels = kernel_bytes(model, run, pass, runs.kernels);
  return plan;
}

}  // namespace moraine
