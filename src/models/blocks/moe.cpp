// Shape suffixes besides the header's: R routed rows, I expert width.
#include "models/blocks/moe.h"

#include <algorithm>

#include "models/image_weight.h"
#include "nn/grouped_linear.h"
#include "nn/router.h"
#include "nn/swiglu.h"
#include "nn/whole_vectors.h"
#include "tensor/to_device.h"

namespace moraine {

namespace {

std::vector<int64_t> experts_of_rows(const std::vector<int64_t>& rows_of_expert) {
  std::vector<int64_t> experts;
  for (size_t e = 0; e < rows_of_expert.size(); ++e)
    experts.insert(experts.end(), rows_of_expert[e], static_cast<int64_t>(e));
  return experts;
}

}  // namespace

at::Tensor Experts::operator()(const at::Tensor& x_TD, const at::Tensor& weights_TK, const LayerScope& scope) const {
  const std::string gate_up = "mlp.experts.gate_up_proj", down = "mlp.experts.down_proj";
  const DispatchPlan& dispatch = scope.record.dispatch;
  const at::Tensor x_RD = scope.pass.experts->dispatch(x_TD, dispatch);
  at::Tensor expert_of_row_R;
  if (options.bias) expert_of_row_R = to_device(experts_of_rows(dispatch.rows_of_expert), x_TD.device());
  const auto product = [&](const at::Tensor& x, const std::string& name) {
    at::Tensor y = grouped_linear(x, weight_of(scope.experts, name), dispatch.rows_of_expert, scope.adapter.find(name));
    return options.bias ? y.add_(scope.experts[name + "_bias"].index_select(0, expert_of_row_R)) : y;
  };
  const at::Tensor gate_up_RI = product(x_RD, gate_up);
  const at::Tensor y_RD =
      product(options.transposed ? clamped_swiglu(gate_up_RI, limit) : swiglu(gate_up_RI, limit), down);
  return scope.pass.experts->combine(y_RD, weights_TK, dispatch);
}

void SparseMoe::declare(Declaration& d) const {
  d.router(router.name, router.num_experts, experts.hidden, router.kept_in);
  if (router.bias) d.param(router.name + ".bias", {router.num_experts});
  if (!router.correction.empty()) {
    std::vector<int64_t> shape{router.num_experts};
    if (router.correction_is_row) shape.insert(shape.begin(), 1);
    d.param(router.correction, shape, {.init = InitialValues::kZeros, .dtype = DType::kF32});
  }
  experts.declare(d);
  if (!shared) return;
  shared->declare(d);
  if (shared_gated) shared_gate().declare(d);
}

at::Tensor SparseMoe::forward(const at::Tensor& x_TD, const LayerScope& scope) const {
  const at::Tensor routed_TD = routed(x_TD, scope);
  if (!shared) return routed_TD;
  const at::Tensor shared_TD = shared->forward(x_TD, scope);
  if (!shared_gated) return routed_TD + shared_TD;
  const at::Tensor gate_T1 =
      on_whole_vectors(shared_gate()(x_TD, scope), [](const at::Tensor& x) { return x.sigmoid(); });
  return routed_TD + gate_T1 * shared_TD;
}

at::Tensor SparseMoe::logits_of(const at::Tensor& x_TD, const LayerScope& scope) const {
  const at::Tensor weight_ED = scope.dense[router.name + ".weight"];
  const LoraPair* lora = scope.adapter.find(router.name + ".weight");
  if (router.fp32_logits) return lora_linear(x_TD.to(at::kFloat), weight_ED.to(at::kFloat), lora);
  const at::Tensor logits_TE = lora_linear(x_TD, weight_ED, lora);
  return router.bias ? logits_TE + scope.dense[router.name + ".bias"] : logits_TE;
}

at::Tensor SparseMoe::routed(const at::Tensor& x_TD, const LayerScope& scope) const {
  LayerRecord& record = scope.record;
  const at::Tensor& real_T = scope.pass.batch->real_T;
  const at::Tensor logits_TE = logits_of(x_TD, scope);
  const at::Tensor correction_E = router.correction.empty() ? at::Tensor() : scope.dense[router.correction].flatten();
  const Routing routing = route(logits_TE, router, correction_E, record.chosen_experts_TK);
  if (!record.chosen_experts_TK.defined()) {
    record.chosen_experts_TK = routing.indices_TK;
    record.dispatch = scope.pass.experts->plan(routing.indices_TK);
    record.expert_counts_E = count_choices(routing.indices_TK, real_T, router.num_experts);
    if (correction_E.defined() || router.groups > 1)
      record.favoured_counts_E = count_favoured(logits_TE, real_T, router.experts_per_token);
  }
  if (scope.pass.balance)
    record.probability_sums_E = sum_of_real_rows(
        router.scores == RouterScores::kSoftmax ? routing.scores_TE : at::softmax(logits_TE, -1, at::kFloat), real_T);
  return experts(x_TD, router.fp32_weights ? routing.weights_TK : routing.weights_TK.to(x_TD.scalar_type()), scope);
}

void SparseMoe::describe(ModelShape& shape) const {
  shape.num_experts = router.num_experts;
  shape.num_experts_per_tok = router.experts_per_token;
  shape.has_router_loss = router.has_loss;
}

}  // namespace moraine
