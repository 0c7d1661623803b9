// Shape suffixes: T tokens, D hidden, E experts, R routed rows, I expert width.
#include "models/qwen_blocks.h"

#include "models/image_weight.h"
#include "models/qwen_fp8.h"
#include "nn/grouped_linear.h"
#include "nn/router.h"
#include "nn/swiglu.h"

namespace moraine {

at::Tensor adapted_linear(const ImageView& dense, const LayerAdapter& adapter, const std::string& module, const at::Tensor& x_TD) {
  at::Tensor y = lora_linear(x_TD, weight_of(dense, module + ".weight", qwen_fp8_blocks()), adapter.find(module));
  return dense.has(module + ".bias") ? y + dense[module + ".bias"] : y;
}

at::Tensor swiglu_mlp(const ImageView& dense, const LayerAdapter& adapter, const std::string& prefix, const at::Tensor& x_TD) {
  at::Tensor gate = adapted_linear(dense, adapter, prefix + "gate_proj", x_TD);
  at::Tensor up = adapted_linear(dense, adapter, prefix + "up_proj", x_TD);
  return adapted_linear(dense, adapter, prefix + "down_proj", swiglu(at::cat({gate, up}, -1)));
}

at::Tensor routed_experts(const ImageView& dense, const ImageView& experts, const LayerAdapter& adapter, const ModelShape& shape,
                          TopK top_k, const at::Tensor& x_TD, const ForwardContext& context, LayerRecord& record) {
  at::Tensor router_logits_TE = lora_linear(x_TD, dense["mlp.gate.weight"], nullptr);
  Routing routing = route_softmax_topk(router_logits_TE, shape.num_experts_per_tok, top_k == TopK::kNormalised,
                                       record.chosen_experts_TK);
  if (!record.chosen_experts_TK.defined()) {
    record.chosen_experts_TK = routing.indices_TK;
    record.dispatch = context.experts->plan(routing.indices_TK);
    record.expert_counts_E = count_choices(routing.indices_TK, context.batch->real_T, shape.num_experts);
  }
  if (context.balance) record.probability_sums_E = sum_of_real_rows(routing.probabilities_TE, context.batch->real_T);
  const std::vector<int64_t>& rows_of_expert = record.dispatch.rows_of_expert;
  at::Tensor x_RD = context.experts->dispatch(x_TD, record.dispatch);
  const FrozenWeight gate_up = weight_of(experts, "mlp.experts.gate_up_proj", qwen_fp8_blocks(2));
  const FrozenWeight down = weight_of(experts, "mlp.experts.down_proj", qwen_fp8_blocks());
  at::Tensor gate_up_RI = grouped_linear(x_RD, gate_up, rows_of_expert, adapter.find("mlp.experts.gate_up_proj"));
  at::Tensor y_RD = grouped_linear(swiglu(gate_up_RI), down, rows_of_expert, adapter.find("mlp.experts.down_proj"));
  return context.experts->combine(y_RD, routing.weights_TK, record.dispatch);
}

}  // namespace moraine
