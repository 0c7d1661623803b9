// Shape suffixes: T tokens, D hidden, N query heads, K key/value heads.
#include "models/qwen3_moe/model.h"

#include "models/output_head.h"
#include "models/qwen_blocks.h"
#include "nn/norm.h"
#include "parallel/torch_dtype.h"

namespace moraine::qwen3_moe {

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
  if (!config_.is_moe_layer(layer)) return after_attn + swiglu_mlp(dense, adapter, "mlp.", mlp_in);
  const TopK top_k = config_.norm_topk_prob ? TopK::kNormalised : TopK::kAsTheyAre;
  return after_attn + routed_experts(dense, experts, adapter, shape(), top_k, mlp_in, context, record);
}

at::Tensor Qwen3MoeModel::self_attn(int64_t layer, const ImageView& dense, const LayerAdapter& adapter,
                                    const at::Tensor& x_TD, const ForwardContext& context) const {
  const int64_t T = x_TD.size(0), head_dim = config_.head_dim;
  at::Tensor q_TND = adapted_linear(dense, adapter, "self_attn.q_proj", x_TD).view({T, config_.num_attention_heads, head_dim});
  at::Tensor k_TKD = adapted_linear(dense, adapter, "self_attn.k_proj", x_TD).view({T, config_.num_key_value_heads, head_dim});
  at::Tensor v_TKD = adapted_linear(dense, adapter, "self_attn.v_proj", x_TD).view({T, config_.num_key_value_heads, head_dim});
  q_TND = apply_rope(rms_norm(q_TND, dense["self_attn.q_norm.weight"], config_.rms_norm_eps), context.rope);
  k_TKD = apply_rope(rms_norm(k_TKD, dense["self_attn.k_norm.weight"], config_.rms_norm_eps), context.rope);
  LayerCache* cache = context.cache(layer);
  at::Tensor attended = causal_attention(q_TND, k_TKD, v_TKD, context.batch->cu_seqlens, cache ? &cache->kv : nullptr);
  return adapted_linear(dense, adapter, "self_attn.o_proj", attended.reshape({T, config_.num_attention_heads * head_dim}));
}

at::Tensor Qwen3MoeModel::final_norm(const ImageView& root, const at::Tensor& hidden) const {
  return rms_norm(hidden, root["model.norm.weight"], config_.rms_norm_eps);
}

at::Tensor Qwen3MoeModel::head_weight_VD(const ImageView& root) const {
  return root[output_head_slot(root)];
}

}  // namespace moraine::qwen3_moe
