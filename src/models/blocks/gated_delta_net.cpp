// Shape suffixes besides the header's: C channels of the convolution.
#include "models/blocks/gated_delta_net.h"

#include "nn/causal_conv.h"
#include "nn/gated_delta_rule.h"
#include "nn/norm.h"

namespace moraine {
namespace {

// Of the sequence that is being generated.
struct DeltaCache {
  at::Tensor conv_tail;  // see causal_conv_silu
  at::Tensor state;      // see gated_delta_rule
};

}  // namespace

void GatedDeltaNet::declare(Declaration& d) const {
  for (const Linear& linear : {out_proj(), in_proj_qkv(), in_proj_z(), in_proj_b(), in_proj_a()}) linear.declare(d);
  d.param("linear_attn.conv1d.weight", {conv_dim(), 1, conv_kernel});
  d.param("linear_attn.dt_bias", {value_heads}, {.init = InitialValues::kOnes});
  // Some releases store these two in F32; transformers computes them in the model's dtype all the same.
  d.param("linear_attn.A_log", {value_heads}, {.init = InitialValues::kLogUniform});
  d.param("linear_attn.norm.weight", {value_head_dim}, {.init = InitialValues::kOnes});
}

at::Tensor GatedDeltaNet::forward(const at::Tensor& x_TD, const LayerScope& scope) const {
  at::Tensor o_TVW = delta_rule_TVW(x_TD, scope);
  at::Tensor z_TVW = in_proj_z()(x_TD, scope).view(o_TVW.sizes());
  return out_proj()(gated_rms_norm(o_TVW, z_TVW, scope.dense["linear_attn.norm.weight"], norm_eps).flatten(1), scope);
}

at::Tensor GatedDeltaNet::delta_rule_TVW(const at::Tensor& x_TD, const LayerScope& scope) const {
  const int64_t T = x_TD.size(0);
  const std::vector<int64_t>& cu_seqlens = scope.pass.batch->cu_seqlens;
  DeltaCache* cache = scope.cache() ? &scope.cache()->of<DeltaCache>() : nullptr;
  at::Tensor qkv_TC = causal_conv_silu(in_proj_qkv()(x_TD, scope), scope.dense["linear_attn.conv1d.weight"].squeeze(1),
                                       cu_seqlens, cache ? &cache->conv_tail : nullptr);
  std::vector<at::Tensor> qkv = qkv_TC.split_with_sizes({key_dim(), key_dim(), value_dim()}, 1);
  at::Tensor a_TV = in_proj_a()(x_TD, scope), b_TV = in_proj_b()(x_TD, scope);
  // In fp32, as a decay close to 1 needs.
  at::Tensor rate_V = scope.dense["linear_attn.A_log"].to(at::kFloat).exp();
  at::Tensor log_decay_TV = -rate_V * at::softplus(a_TV.to(at::kFloat) + scope.dense["linear_attn.dt_bias"]);
  const DeltaChunks& chunks =
      scope.pass.once<DeltaChunks>("delta chunks", [&] { return plan_delta_chunks(cu_seqlens, x_TD.device()); });
  return gated_delta_rule(qkv[0].view({T, key_heads, key_head_dim}), qkv[1].view({T, key_heads, key_head_dim}),
                          qkv[2].view({T, value_heads, value_head_dim}), log_decay_TV, b_TV.sigmoid(), chunks,
                          cache ? &cache->state : nullptr);
}

}  // namespace moraine
