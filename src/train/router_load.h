// How evenly tokens are spread over experts: counted every step, and the auxiliary loss that evens it out.
//
// Shape suffixes: L layers, E experts.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "distributed/collectives/process_group.h"
#include "models/model.h"

namespace moraine {

// Sums over tokens. A layer without experts has zeros.
class RouterLoad {
 public:
  RouterLoad(const ModelShape& shape, at::Device device);

  // What the layers of a pass recorded.
  void add(const std::vector<LayerRecord>& records);
  // Sums over the ranks of `group`, which must all call this.
  void reduce(ProcessGroup& group);

  // Busiest expert's tokens / mean over experts, averaged over the layers with experts; 1 = even, 0 = no token at all.
  double imbalance() const;
  // E · Σ_e f_e · P_e, f_e the mean number of times that a token chooses e and P_e the mean probability of e, over all
  // tokens and layers at once: transformers' load_balancing_loss_func (Fedus et al. 2021,
  // https://arxiv.org/abs/2101.03961, eq. 4-6). Perfectly even routing gives num_experts_per_tok. 0 without tokens.
  double aux_loss() const;
  // d aux_loss / d (sum over tokens of the probabilities), [E] fp64, the same for each layer. Choices have no gradient.
  at::Tensor aux_loss_gradient_E() const;

 private:
  at::Tensor mean_counts_E() const;  // f, double
  double rows() const;               // tokens × layers that the auxiliary loss counts

  int64_t num_experts_per_tok_;
  at::Tensor counts_LE_;           // int64
  at::Tensor favoured_counts_E_;   // int64: what the auxiliary loss counts, all layers together
  at::Tensor probability_sums_E_;  // double
};

}  // namespace moraine
