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
  if (grouped) {
    for (const Linear& linear : {in_proj_qkvz(), in_proj_ba(), out_proj()}) linear.declare(d);
  } else {
    for (const Linear& linear : {out_proj(), in_proj_qkv(), in_proj_z(), in_proj_b(), in_proj_a()}) linear.declare(d);
  }
  d.param("linear_attn.conv1d.weight", {conv_dim(), 1, conv_kernel});
  d.param("linear_attn.dt_bias", {value_heads}, {.init = InitialValues::kOnes});
  // Some releases store these two in F32; transformers computes them in the model's dtype all the same.
  d.param("linear_attn.A_log", {value_heads}, {.init = InitialValues::kLogUniform});
  d.param("linear_attn.norm.weight", {value_head_dim}, {.init = InitialValues::kOnes});
}

GatedDeltaNet::Projected GatedDeltaNet::project(const at::Tensor& x_TD, const LayerScope& scope) const {
  if (grouped) return project_grouped(x_TD, scope);
  return {in_proj_qkv()(x_TD, scope), in_proj_z()(x_TD, scope).view({x_TD.size(0), value_heads, value_head_dim}),
          in_proj_b()(x_TD, scope), in_proj_a()(x_TD, scope)};
}

GatedDeltaNet::Projected GatedDeltaNet::project_grouped(const at::Tensor& x_TD, const LayerScope& scope) const {
  const int64_t T = x_TD.size(0), values_a_key = value_heads / key_heads, width = values_a_key * value_head_dim;
  const auto by_key_head = [&](const at::Tensor& y, const std::vector<int64_t>& widths) {
    return y.view({T, key_heads, -1}).split_with_sizes(widths, -1);
  };
  const std::vector<at::Tensor> qkvz =
      by_key_head(in_proj_qkvz()(x_TD, scope), {key_head_dim, key_head_dim, width, width});
  const std::vector<at::Tensor> ba = by_key_head(in_proj_ba()(x_TD, scope), {values_a_key, values_a_key});
  return {at::cat({qkvz[0].flatten(1), qkvz[1].flatten(1), qkvz[2].flatten(1)}, -1),
          qkvz[3].reshape({T, value_heads, value_head_dim}), ba[0].reshape({T, value_heads}),
          ba[1].reshape({T, value_heads})};
}

at::Tensor GatedDeltaNet::forward(const at::Tensor& x_TD, const LayerScope& scope) const {
  const Projected projected = project(x_TD, scope);
  const at::Tensor o_TVW = delta_rule_TVW(projected, scope);
  const at::Tensor normed_TVW =
      gated_rms_norm(o_TVW, projected.z_TVW, scope.dense["linear_attn.norm.weight"], norm_eps);
  return out_proj()(normed_TVW.flatten(1), scope);
}

at::Tensor GatedDeltaNet::delta_rule_TVW(const at::Tensor& x_TD, const LayerScope& scope) const {
  return delta_rule_TVW(project(x_TD, scope), scope);
}

at::Tensor GatedDeltaNet::delta_rule_TVW(const Projected& projected, const LayerScope& scope) const {
  const int64_t T = projected.qkv_TC.size(0);
  const std::vector<int64_t>& cu_seqlens = scope.pass.batch->cu_seqlens;
  DeltaCache* cache = scope.cache() ? &scope.cache()->of<DeltaCache>() : nullptr;
  const at::Tensor qkv_TC = causal_conv_silu(projected.qkv_TC, scope.dense["linear_attn.conv1d.weight"].squeeze(1),
                                             cu_seqlens, cache ? &cache->conv_tail : nullptr);
  const std::vector<at::Tensor> qkv = qkv_TC.split_with_sizes({key_dim(), key_dim(), value_dim()}, 1);
  // In fp32, as a decay close to 1 needs.
  const at::Tensor rate_V = scope.dense["linear_attn.A_log"].to(at::kFloat).exp();
  const at::Tensor log_decay_TV =
      -rate_V * at::softplus(projected.a_TV.to(at::kFloat) + scope.dense["linear_attn.dt_bias"]);
  const DeltaChunks& chunks = scope.pass.once<DeltaChunks>(
      "delta chunks", [&] { return plan_delta_chunks(cu_seqlens, projected.qkv_TC.device()); });
  return gated_delta_rule(qkv[0].view({T, key_heads, key_head_dim}), qkv[1].view({T, key_heads, key_head_dim}),
                          qkv[2].view({T, value_heads, value_head_dim}), log_decay_TV, projected.b_TV.sigmoid(), chunks,
                          cache ? &cache->state : nullptr);
}

}  // namespace moraine
