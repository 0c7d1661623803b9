// What a pass holds besides weights and adapter: each kind of layer and the output head are run once on meta tensors of
// the planned run's sizes, forwards and backwards (plan/layer_run), and put together as train/pass runs them.
#pragma once

#include <compare>
#include <cstdint>

#include "plan/planned_run.h"

namespace moraine {

// One micro-step as one rank sees it; what it holds depends on nothing else that differs between runs of a model.
struct PassShape {
  int64_t sequences = 0, length = 0;  // of this rank; the length filled up to the alignment of matrix products
  bool fills_up = false;              // whether it is
  int64_t world_of_tokens = 0;        // of all ranks of its EP group
  int64_t ep = 1, local_experts = 0;
  int64_t received_rows = 0;  // for this rank's experts, from all ranks of the EP group
  c10::DeviceType device = c10::DeviceType::CPU;

  int64_t tokens() const { return sequences * length; }
  friend auto operator<=>(const PassShape&, const PassShape&) = default;
};

// Tokens spread evenly over experts; `imbalance` times as many rows, as far as there are so many, come to this rank's.
PassShape plan_pass(const PlannedModel& model, const PlannedRun& run, int64_t rank, double imbalance = 1.0);

// The most bytes that a pass holds in each of its parts, weights and adapter not among them.
struct ActivationPlan {
  double forward = 0, head = 0, backward = 0;
  double largest = 0;  // of a layer's tensors
  double kernels = 0;  // compiled matrix products (see plan/product_kernels), of the whole run
};
// Runs what has not run yet in this shape; `model` remembers.
ActivationPlan plan_activations(const PlannedModel& model, const PlannedRun& run, const PassShape& pass);

}  // namespace moraine
