// Shape suffixes: T tokens, D hidden or head width, N query heads, K key (and value) heads, V value heads of linear attention,
// W their width, C channels of its convolution.
#include "models/qwen3_5_moe/model.h"

#include "models/output_head.h"
#include "models/qwen_blocks.h"
#include "nn/causal_conv.h"
#include "nn/norm.h"
#include "nn/whole_vectors.h"
#include "parallel/torch_dtype.h"

namespace moraine::qwen3_5_moe {

Qwen3_5MoeModel::Qwen3_5MoeModel(Config config) : config_(config), layout_(std::move(config)) {}

ForwardContext Qwen3_5MoeModel::prepare(const Batch& batch) const {
  ForwardContext context;
  context.batch = &batch;
  // The interleaved M-RoPE of the multimodal class: a text token has one position on all three axes, which makes it plain RoPE.
  context.rope = make_rope_table(batch.position_ids_T, config_.rotary_dim, config_.rope_theta, torch_dtype(config_.dtype));
  context.delta_chunks = plan_delta_chunks(batch.cu_seqlens, batch.input_ids_T.device());
  return context;
}

at::Tensor Qwen3_5MoeModel::embed(const ImageView& root, const Batch& batch) const {
  return root["model.embed_tokens.weight"].index_select(0, batch.input_ids_T);
}

at::Tensor Qwen3_5MoeModel::forward_layer(int64_t layer, const ImageView& dense, const ImageView& experts,
                                          const LayerAdapter& adapter, const at::Tensor& hidden,
                                          const ForwardContext& context, LayerRecord& record) const {
  at::Tensor attn_in = rms_norm_zero_centered(hidden, dense["input_layernorm.weight"], config_.rms_norm_eps);
  at::Tensor attn_out = config_.layer_types[layer] == LayerType::kFullAttention
                            ? self_attn(dense, adapter, attn_in, context, context.cache(layer))
                            : linear_attn(dense, adapter, attn_in, context, context.cache(layer));
  at::Tensor after_attn = hidden + attn_out;
  at::Tensor mlp_in = rms_norm_zero_centered(after_attn, dense["post_attention_layernorm.weight"], config_.rms_norm_eps);
  return after_attn + sparse_moe(dense, experts, adapter, mlp_in, context, record);
}

at::Tensor Qwen3_5MoeModel::self_attn(const ImageView& dense, const LayerAdapter& adapter, const at::Tensor& x_TD,
                                      const ForwardContext& context, LayerCache* cache) const {
  const int64_t T = x_TD.size(0), heads = config_.num_attention_heads, kv_heads = config_.num_key_value_heads,
                head_dim = config_.head_dim;
  const auto norm = [&](const at::Tensor& x, const char* name) {
    return rms_norm_zero_centered(x, dense[name], config_.rms_norm_eps);
  };
  // Each head's query, then its gate.
  at::Tensor q_and_gate = adapted_linear(dense, adapter, "self_attn.q_proj", x_TD).view({T, heads, 2 * head_dim});
  std::vector<at::Tensor> halves = q_and_gate.split(head_dim, -1);
  at::Tensor k_TKD = adapted_linear(dense, adapter, "self_attn.k_proj", x_TD).view({T, kv_heads, head_dim});
  at::Tensor v_TKD = adapted_linear(dense, adapter, "self_attn.v_proj", x_TD).view({T, kv_heads, head_dim});
  at::Tensor q_TND = apply_rope(norm(halves[0], "self_attn.q_norm.weight"), context.rope);
  k_TKD = apply_rope(norm(k_TKD, "self_attn.k_norm.weight"), context.rope);
  at::Tensor attended_TND =
      causal_attention(q_TND, k_TKD, v_TKD, context.batch->cu_seqlens, cache ? &cache->kv : nullptr) * halves[1].sigmoid();
  return adapted_linear(dense, adapter, "self_attn.o_proj", attended_TND.reshape({T, heads * head_dim}));
}

at::Tensor Qwen3_5MoeModel::linear_attn(const ImageView& dense, const LayerAdapter& adapter, const at::Tensor& x_TD,
                                        const ForwardContext& context, LayerCache* cache) const {
  at::Tensor o_TVW = delta_rule_TVW(dense, adapter, x_TD, context, cache);
  at::Tensor z_TVW = adapted_linear(dense, adapter, "linear_attn.in_proj_z", x_TD).view(o_TVW.sizes());
  at::Tensor normed_TVW = gated_rms_norm(o_TVW, z_TVW, dense["linear_attn.norm.weight"], config_.rms_norm_eps);
  return adapted_linear(dense, adapter, "linear_attn.out_proj", normed_TVW.flatten(1));
}

at::Tensor Qwen3_5MoeModel::delta_rule_TVW(const ImageView& dense, const LayerAdapter& adapter, const at::Tensor& x_TD,
                                           const ForwardContext& context, LayerCache* cache) const {
  const Config& c = config_;
  const int64_t T = x_TD.size(0), key_heads = c.linear_num_key_heads, value_heads = c.linear_num_value_heads;
  at::Tensor qkv_TC = causal_conv_silu(adapted_linear(dense, adapter, "linear_attn.in_proj_qkv", x_TD),
                                       dense["linear_attn.conv1d.weight"].squeeze(1), context.batch->cu_seqlens,
                                       cache ? &cache->conv_tail : nullptr);
  std::vector<at::Tensor> qkv = qkv_TC.split_with_sizes({c.linear_key_dim(), c.linear_key_dim(), c.linear_value_dim()}, 1);
  at::Tensor a_TV = adapted_linear(dense, adapter, "linear_attn.in_proj_a", x_TD);
  at::Tensor b_TV = adapted_linear(dense, adapter, "linear_attn.in_proj_b", x_TD);
  // In fp32, as a decay close to 1 needs.
  at::Tensor rate_V = dense["linear_attn.A_log"].to(at::kFloat).exp();
  at::Tensor log_decay_TV = -rate_V * at::softplus(a_TV.to(at::kFloat) + dense["linear_attn.dt_bias"]);
  return gated_delta_rule(qkv[0].view({T, key_heads, c.linear_key_head_dim}), qkv[1].view({T, key_heads, c.linear_key_head_dim}),
                          qkv[2].view({T, value_heads, c.linear_value_head_dim}), log_decay_TV, b_TV.sigmoid(),
                          context.delta_chunks, cache ? &cache->delta_state : nullptr);
}

at::Tensor Qwen3_5MoeModel::sparse_moe(const ImageView& dense, const ImageView& experts, const LayerAdapter& adapter,
                                       const at::Tensor& x_TD, const ForwardContext& context, LayerRecord& record) const {
  at::Tensor routed_TD = routed_experts(dense, experts, adapter, shape(), TopK::kNormalised, x_TD, context, record);
  at::Tensor gate_T1 = on_whole_vectors(adapted_linear(dense, adapter, "mlp.shared_expert_gate", x_TD),
                                        [](const at::Tensor& x) { return x.sigmoid(); });
  return routed_TD + gate_T1 * swiglu_mlp(dense, adapter, "mlp.shared_expert.", x_TD);
}

at::Tensor Qwen3_5MoeModel::final_norm(const ImageView& root, const at::Tensor& hidden) const {
  return rms_norm_zero_centered(hidden, root["model.norm.weight"], config_.rms_norm_eps);
}

at::Tensor Qwen3_5MoeModel::head_weight_VD(const ImageView& root) const {
  return root[output_head_slot(root)];
}

}  // namespace moraine::qwen3_5_moe
