// A pass run once on meta tensors of the planned run's sizes: each kind of layer and the output head, forwards and
// backwards (plan/layer_run), for what they hold and do.
#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "plan/layer_run.h"
#include "plan/planned_run.h"
#include "plan/product_kernels.h"

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

// What rows of the model's products are filled up to on `device`.
int64_t row_alignment(const PlannedModel& model, c10::Device device);

// Tokens spread evenly over experts; `imbalance` times as many rows, as far as there are so many, come to this rank's.
PassShape plan_pass(const PlannedModel& model, const PlannedRun& run, int64_t rank, double imbalance = 1.0);

// What one pass's layers and head held and did.
struct PassRun {
  int64_t batch = 0;             // bytes of ids, positions, targets, and what layers share
  std::vector<LayerRun> layers;  // all
  HeadRun head;
  int64_t embedding = 0;  // measure_embedding
  ProductKernels kernels;
  double times = 1;  // longer passes are not run: they hold and do so many times as much as this one
};
// Runs what has not run yet in this shape; `model` remembers.
const PassRun& run_pass(const PlannedModel& model, const PassShape& pass);

}  // namespace moraine
