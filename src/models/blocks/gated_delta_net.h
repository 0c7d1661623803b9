// Linear attention by the gated delta rule (Yang et al. 2024, https://arxiv.org/abs/2412.06464).
//
// Shape suffixes: T tokens, D hidden, V value heads, W their width.
#pragma once

#include "models/blocks/linear.h"

namespace moraine {

struct GatedDeltaNet : Block {
  int64_t hidden = 0;
  int64_t key_heads = 0, key_head_dim = 0, value_heads = 0, value_head_dim = 0;
  int64_t conv_kernel = 4;
  double norm_eps = 1e-6;
  // One projection holds queries, keys, values and z, another b and a, of one key head after another (Qwen3-Next); else
  // each of the four has its own.
  bool grouped = false;

  void declare(Declaration& d) const override;
  at::Tensor forward(const at::Tensor& x_TD, const LayerScope& scope) const override;

  // The recurrence within: what the gated norm takes.
  at::Tensor delta_rule_TVW(const at::Tensor& x_TD, const LayerScope& scope) const;

 private:
  struct Projected {
    at::Tensor qkv_TC, z_TVW, b_TV, a_TV;  // C: queries, keys, values
  };
  Projected project(const at::Tensor& x_TD, const LayerScope& scope) const;
  Projected project_grouped(const at::Tensor& x_TD, const LayerScope& scope) const;
  at::Tensor delta_rule_TVW(const Projected& projected, const LayerScope& scope) const;
  int64_t key_dim() const { return key_heads * key_head_dim; }
  int64_t value_dim() const { return value_heads * value_head_dim; }
  int64_t conv_dim() const { return 2 * key_dim() + value_dim(); }  // queries, keys, values
  Linear out_proj() const { return {"linear_attn.out_proj", hidden, value_dim()}; }
  Linear in_proj_qkv() const { return {"linear_attn.in_proj_qkv", conv_dim(), hidden}; }
  Linear in_proj_z() const { return {"linear_attn.in_proj_z", value_dim(), hidden}; }
  Linear in_proj_b() const { return {"linear_attn.in_proj_b", value_heads, hidden}; }
  Linear in_proj_qkvz() const { return {"linear_attn.in_proj_qkvz", conv_dim() + value_dim(), hidden}; }
  Linear in_proj_ba() const { return {"linear_attn.in_proj_ba", 2 * value_heads, hidden}; }
  Linear in_proj_a() const { return {"linear_attn.in_proj_a", value_heads, hidden}; }
};

}  // namespace moraine
