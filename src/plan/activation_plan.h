// What a pass holds besides weights and adapter: the tensors of train/pass and of the layers, counted.
//
// Written beside the code that allocates them: who changes what a layer keeps for its backward pass changes this too,
// and tests/ranks/plan_memory_test.py compares the two. Where a model family differs in detail, ModelShape's figures
// stand for it: its layout counts what its own mathematics keeps (AttentionMemory).
#pragma once

#include <cstdint>

#include "plan/planned_run.h"

namespace moraine {

// One micro-step as one rank sees it.
struct PassShape {
  int64_t tokens = 0;           // of this rank, each sequence filled up to the alignment of matrix products
  int64_t world_of_tokens = 0;  // of all ranks of its EP group
  double sent_rows = 0;         // tokens × experts per token
  double received_rows = 0;     // for this rank's experts, from all ranks of the EP group
  double expert_rows = 0;       // the same with the rows that only fill up
  int64_t local_experts = 0;
  bool exchanges = false;  // rows travel between ranks
  int64_t length = 0;      // of a sequence
};

// Routing is taken to be balanced: every expert gets the same share of the tokens, times `imbalance` on this rank.
PassShape plan_pass(const PlannedModel& model, const PlannedRun& run, int64_t rank, double imbalance = 1.0);

// Bytes.
struct ActivationPlan {
  double kept = 0;     // each layer's input and routing, or with recompute: none each layer's tape
  double layer = 0;    // of the widest layer: running it again under autograd, and its backward pass
  double head = 0;     // the loss and its gradient, a chunk of tokens at a time
  double kernels = 0;  // compiled matrix products (see activation_plan.cpp)
};
ActivationPlan plan_activations(const PlannedModel& model, const PlannedRun& run, const PassShape& pass);

}  // namespace moraine
