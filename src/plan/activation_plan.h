// What a pass holds besides weights and adapter: its layers and head, which were run once (plan/pass_run), put together
// as train/pass runs them.
#pragma once

#include "plan/pass_run.h"

namespace moraine {

// The most bytes that a pass holds in each of its parts, weights and adapter not among them.
struct ActivationPlan {
  double forward = 0, head = 0, backward = 0;
  double largest = 0;  // of a layer's tensors
  double kernels = 0;  // compiled matrix products (see plan/product_kernels), of the whole run
};
// Runs what has not run yet in this shape; `model` remembers.
ActivationPlan plan_activations(const PlannedModel& model, const PlannedRun& run, const PassShape& pass);

}  // namespace moraine
