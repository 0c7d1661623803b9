// Routed experts, with a shared expert where the family has one.
//
// Shape suffixes: T tokens, D hidden, E experts, K experts per token.
#pragma once

#include <optional>
#include <string>

#include "models/blocks/mlp.h"
#include "nn/router.h"

namespace moraine {

struct Router : RouterRule {
  std::string name = "mlp.gate";
  bool bias = false;
  bool fp32_logits = false;           // x · weight in fp32, whatever the activations are in
  bool fp32_weights = false;          // the weights multiply unrounded, not in the activations' dtype
  std::optional<DType> kept_in = {};  // the weight's dtype where it keeps one of its own
  // What is added to the scores to choose by; empty: nothing is. Held in fp32.
  std::string correction = {};     // its name within the layer, e.g. "mlp.gate.e_score_correction_bias"
  bool correction_is_row = false;  // stored as [1, E], not as [E]
  bool has_loss = true;            // whether transformers' class has an auxiliary loss on the routing
};

struct Experts {
  int64_t num_experts = 0, intermediate = 0, hidden = 0;
  double limit = std::numeric_limits<double>::infinity();  // see swiglu
  ExpertOptions options = {};                              // transposed ones take clamped_swiglu instead

  void declare(Declaration& d) const { d.experts("mlp.experts", num_experts, intermediate, hidden, options); }
  // Sends tokens to the experts that record.dispatch says, and sums what comes back by `weights_TK`.
  at::Tensor operator()(const at::Tensor& x_TD, const at::Tensor& weights_TK, const LayerScope& scope) const;
};

struct SparseMoe : Block {
  Router router;
  Experts experts;
  std::optional<Mlp> shared = {};  // + shared(x)
  bool shared_gated = false;       // + sigmoid(mlp.shared_expert_gate(x)) · shared(x) instead

  void declare(Declaration& d) const override;
  at::Tensor forward(const at::Tensor& x_TD, const LayerScope& scope) const override;
  void describe(ModelShape& shape) const override;

 private:
  at::Tensor logits_of(const at::Tensor& x_TD, const LayerScope& scope) const;
  at::Tensor routed(const at::Tensor& x_TD, const LayerScope& scope) const;
  Linear shared_gate() const { return {"mlp.shared_expert_gate", 1, experts.hidden}; }
};

}  // namespace moraine
