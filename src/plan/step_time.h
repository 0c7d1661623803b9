// How long a step takes: a prediction from counted work and a device's figures.
//
// Of each layer's run the kernels follow each other, each as long as its arithmetic or its memory takes, whichever is
// longer; the host launches them ahead, so a run that is launched more slowly than it computes takes what launching
// takes. Weights of the next layer come meanwhile (plan/transfer_plan), from other ranks and from the host's memory at
// the same time; what they take longer is waited for. Nothing else overlaps: tokens to experts and back, the sums of
// gradients, the update. Rows are spread evenly over experts; rank 0, which has the most rows, stands for all.
#pragma once

#include "plan/device_rates.h"
#include "plan/planned_run.h"

namespace moraine {

// What a step's seconds go to. Their sum is the step.
struct StepTime {
  double products = 0;  // kernels that arithmetic bounds
  double memory = 0;    // kernels that the device's memory bounds
  double launches = 0;  // the host's
  double network = 0;   // ranks waiting for each other's bytes
  double pcie = 0;      // waiting for weights from the host's memory

  double useful_flops = 0;     // of a rank: forwards and backwards, recomputation not among them
  double tokens_a_second = 0;  // of the world
  double mfu = 0;              // useful_flops each second, of the device's bf16 peak

  double seconds() const { return products + memory + launches + network + pcie; }
  // "memory bandwidth": what most of the seconds go to.
  const char* bound_by() const;
};

// `run.rates` are the device's figures. Throws as plan_run does about train.recompute: none.
StepTime predict_step(const PlannedModel& model, const PlannedRun& run);

// The seconds of `work` alone, by what bounds it.
StepTime time_of(const DeviceWork& work, const DeviceRates& rates);

}  // namespace moraine
