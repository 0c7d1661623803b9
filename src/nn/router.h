// Which experts a token goes to.
//
// Shape suffixes: T tokens, E experts, K experts per token (top-k).
#pragma once

#include <ATen/ATen.h>

namespace moraine {

enum class RouterScores {
  kSoftmax,  // over all experts
  kSigmoid,  // of each
};

// How logits become choices and weights: the K highest scores, each chosen expert's score its weight.
struct RouterRule {
  int64_t num_experts = 0, experts_per_token = 0;
  RouterScores scores = RouterScores::kSoftmax;
  // Choices within the best groups alone (DeepSeek-V3, https://arxiv.org/abs/2412.19437, section 2.1.2): `groups` of
  // equally many neighbours, a group's score the sum of its two highest.
  int64_t groups = 1, groups_kept = 1;
  bool normalised = true;  // the chosen experts' weights sum to 1:
  double sum_epsilon = 0;  // what is added to the sum that they are divided by,
  double least_sum = 0;    // and what it is at least
  double scale = 1;        // on the weights, normalised or not
};

struct Routing {
  at::Tensor indices_TK;  // int64, rising expert id in each row
  at::Tensor weights_TK;  // fp32, differentiable through the router's input
  at::Tensor scores_TE;   // fp32, of all experts; differentiable likewise
};

// In fp32. `correction_E` is added to the scores where experts are chosen, not to the weights; undefined = none.
// `chosen_TK`: the indices that an earlier pass chose, to be used again; undefined = choose now.
Routing route(const at::Tensor& logits_TE, const RouterRule& rule, const at::Tensor& correction_E,
              const at::Tensor& chosen_TK);

// What transformers' auxiliary loss takes the K experts of a token for, and counts: the highest logits, whatever else
// the choice followed. int64 [E], by the tokens that `real_T` marks.
at::Tensor count_favoured(const at::Tensor& logits_TE, const at::Tensor& real_T, int64_t experts_per_token);

// How often each expert was chosen, int64 [E], by the tokens that `real_T` (bool; undefined = all) marks.
at::Tensor count_choices(const at::Tensor& indices_TK, const at::Tensor& real_T, int64_t num_experts);
// Σ over those tokens of rows of x_TE. Differentiable.
at::Tensor sum_of_real_rows(const at::Tensor& x_TE, const at::Tensor& real_T);

}  // namespace moraine
