// Routed experts, with a shared expert where the family has one.
//
// Shape suffixes: T tokens, D hidden, E experts, K experts per token.
#pragma once

#include <optional>

#include "models/blocks/mlp.h"

namespace moraine {

// Softmax over all experts in fp32, the K highest.
struct SoftmaxRouter {
  int64_t num_experts = 0, experts_per_token = 0;
  bool normalised = true;     // the chosen experts' weights sum to 1
  bool fp32_weights = false;  // they multiply unrounded, not in the activations' dtype
};

struct Experts {
  int64_t num_experts = 0, intermediate = 0, hidden = 0;
  double limit = std::numeric_limits<double>::infinity();  // see swiglu

  void declare(Declaration& d) const { d.experts("mlp.experts", num_experts, intermediate, hidden); }
  // Sends tokens to the experts that record.dispatch says, and sums what comes back by `weights_TK`.
  at::Tensor operator()(const at::Tensor& x_TD, const at::Tensor& weights_TK, const LayerScope& scope) const;
};

struct SparseMoe : Block {
  SoftmaxRouter router;
  Experts experts;
  std::optional<Mlp> shared = {};  // + sigmoid(mlp.shared_expert_gate(x)) · shared(x)

  void declare(Declaration& d) const override;
  at::Tensor forward(const at::Tensor& x_TD, const LayerScope& scope) const override;
  void describe(ModelShape& shape) const override;

 private:
  at::Tensor routed(const at::Tensor& x_TD, const LayerScope& scope) const;
  Linear shared_gate() const { return {"mlp.shared_expert_gate", 1, experts.hidden}; }
};

}  // namespace moraine
