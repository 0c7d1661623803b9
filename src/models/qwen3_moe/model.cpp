// Shape suffixes: T tokens, D hidden, N query heads, K key/value heads or experts a token, E experts, R routed rows,
// I expert width.
#include "models/qwen3_moe/model.h"

#include "nn/grouped_linear.h"
#include "nn/norm.h"
#include "nn/router.h"
#include "nn/swiglu.h"
#include "parallel/torch_dtype.h"

namespace moraine::qwen3_moe {
namespace {

at::Tensor linear(const ImageView& dense, const LayerAdapter& adapter, const std::string& module, const at::Tensor& x) {
  at::Tensor y = lora_linear(x, dense[module + ".weight"], adapter.find(module));
  return dense.has(module + ".bias") ? y + dense[module + ".bias"] : y;
}

}  // namespace

Qwen3MoeModel::Qwen3MoeModel(Config config) : config_(config), layout_(std::move(config)) {}

ForwardContext Qwen3MoeModel::prepare(const Batch& batch) const {
  ForwardContext context;
  context.batch = &batch;
  context.rope = make_rope_table(batch.position_ids_T, config_.head_dim, config_.rope_theta, torch_dtype(config_.dtype));
  return context;
}

at::Tensor Qwen3MoeModel::embed(const ImageView& root, const Batch& batch) const {
  return root["model.embed_tokens.weight"].index_select(0, batch.input_ids_T);
}

at::Tensor Qwen3MoeModel::forward_layer(int64_t layer, const ImageView& dense, const ImageView& experts,
                                        const LayerAdapter& adapter, const at::Tensor& hidden,
                                        const ForwardContext& context, LayerRecord& record) const {
  at::Tensor attn_in = rms_norm(hidden, dense["input_layernorm.weight"], config_.rms_norm_eps);
  at::Tensor after_attn = hidden + self_attn(layer, dense, adapter, attn_in, context);
  at::Tensor mlp_in = rms_norm(after_attn, dense["post_attention_layernorm.weight"], config_.rms_norm_eps);
  at::Tensor mlp_out = config_.is_moe_layer(layer) ? sparse_moe(dense, experts, adapter, mlp_in, context, record)
                                                   : dense_mlp(dense, adapter, mlp_in);
  return after_attn + mlp_out;
}

at::Tensor Qwen3MoeModel::self_attn(int64_t layer, const ImageView& dense, const LayerAdapter& adapter,
                                    const at::Tensor& x_TD, const ForwardContext& context) const {
  const int64_t T = x_TD.size(0), head_dim = config_.head_dim;
  at::Tensor q_TND = linear(dense, adapter, "self_attn.q_proj", x_TD).view({T, config_.num_attention_heads, head_dim});
  at::Tensor k_TKD = linear(dense, adapter, "self_attn.k_proj", x_TD).view({T, config_.num_key_value_heads, head_dim});
  at::Tensor v_TKD = linear(dense, adapter, "self_attn.v_proj", x_TD).view({T, config_.num_key_value_heads, head_dim});
  q_TND = apply_rope(rms_norm(q_TND, dense["self_attn.q_norm.weight"], config_.rms_norm_eps), context.rope);
  k_TKD = apply_rope(rms_norm(k_TKD, dense["self_attn.k_norm.weight"], config_.rms_norm_eps), context.rope);
  KvCache* cache = context.caches ? &(*context.caches)[layer] : nullptr;
  at::Tensor attended = causal_attention(q_TND, k_TKD, v_TKD, context.batch->cu_seqlens, cache);
  return linear(dense, adapter, "self_attn.o_proj", attended.reshape({T, config_.num_attention_heads * head_dim}));
}

at::Tensor Qwen3MoeModel::sparse_moe(const ImageView& dense, const ImageView& experts, const LayerAdapter& adapter,
                                     const at::Tensor& x_TD, const ForwardContext& context, LayerRecord& record) const {
  at::Tensor router_logits_TE = lora_linear(x_TD, dense["mlp.gate.weight"], nullptr);
  Routing routing = route_softmax_topk(router_logits_TE, config_.num_experts_per_tok, config_.norm_topk_prob,
                                       record.chosen_experts_TK);
  if (!record.chosen_experts_TK.defined()) {
    record.chosen_experts_TK = routing.indices_TK;
    record.dispatch = context.experts->plan(routing.indices_TK);
    record.expert_counts_E = count_choices(routing.indices_TK, context.batch->real_T, config_.num_experts);
  }
  if (context.balance) record.probability_sums_E = sum_of_real_rows(routing.probabilities_TE, context.batch->real_T);
  const std::vector<int64_t>& rows_of_expert = record.dispatch.rows_of_expert;
  at::Tensor x_RD = context.experts->dispatch(x_TD, record.dispatch);
  at::Tensor gate_up_RI = grouped_linear(x_RD, experts["mlp.experts.gate_up_proj"], rows_of_expert,
                                         adapter.find("mlp.experts.gate_up_proj"));
  at::Tensor y_RD = grouped_linear(swiglu(gate_up_RI), experts["mlp.experts.down_proj"], rows_of_expert,
                                   adapter.find("mlp.experts.down_proj"));
  return context.experts->combine(y_RD, routing.weights_TK, record.dispatch);
}

at::Tensor Qwen3MoeModel::dense_mlp(const ImageView& dense, const LayerAdapter& adapter, const at::Tensor& x_TD) const {
  at::Tensor gate = linear(dense, adapter, "mlp.gate_proj", x_TD), up = linear(dense, adapter, "mlp.up_proj", x_TD);
  return linear(dense, adapter, "mlp.down_proj", swiglu(at::cat({gate, up}, -1)));
}

at::Tensor Qwen3MoeModel::final_norm(const ImageView& root, const at::Tensor& hidden) const {
  return rms_norm(hidden, root["model.norm.weight"], config_.rms_norm_eps);
}

at::Tensor Qwen3MoeModel::head_weight_VD(const ImageView& root) const {
  return root[config_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight"];
}

}  // namespace moraine::qwen3_moe
