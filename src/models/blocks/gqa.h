// Causal self-attention with grouped queries (Ainslie et al. 2023, https://arxiv.org/abs/2305.13245).
//
// Shape suffixes: T tokens, D hidden, N query heads, K key/value heads, W head width.
#pragma once

#include "models/blocks/linear.h"
#include "models/blocks/norm.h"
#include "nn/rope.h"

namespace moraine {

enum class QkNorm {
  kNone,
  kHead,   // of each head
  kWidth,  // of all heads together, before they are split
};

struct Gqa : Block {
  int64_t heads = 0, kv_heads = 0, head_dim = 0, hidden = 0;
  bool bias = false;    // of q, k and v
  bool o_bias = false;  // of the output
  QkNorm qk_norm = QkNorm::kHead;
  NormKind norm_kind = NormKind::kPlain;
  double norm_eps = 1e-6;
  bool output_gate = false;  // q_proj makes a query and a gate of each head: the attended values · sigmoid(gate)
  std::optional<double> clip = {};  // queries, keys and values to ±clip
  bool sinks = false;               // a learnt logit for each head that joins the softmax and is dropped
  int64_t window = 0;               // tokens that one sees, itself the last; 0 = all before it
  RopeSpec rope = {};               // turns the first dims of a head
  bool rope_interleaved = false;    // adjacent pairs, not half-split
  bool rope_in_fp32 = false;        // neither the table nor what it turns rounded before the sum

  void declare(Declaration& d) const override;
  at::Tensor forward(const at::Tensor& x_TD, const LayerScope& scope) const override;

 private:
  int64_t q_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
  Linear q_proj() const { return {"self_attn.q_proj", (output_gate ? 2 : 1) * q_width(), hidden, bias}; }
  Linear k_proj() const { return {"self_attn.k_proj", kv_width(), hidden, bias}; }
  Linear v_proj() const { return {"self_attn.v_proj", kv_width(), hidden, bias}; }
  Linear o_proj() const { return {"self_attn.o_proj", hidden, q_width(), o_bias}; }
  RmsNorm q_norm() const {
    return {"self_attn.q_norm", qk_norm == QkNorm::kHead ? head_dim : q_width(), norm_eps, norm_kind};
  }
  RmsNorm k_norm() const {
    return {"self_attn.k_norm", qk_norm == QkNorm::kHead ? head_dim : kv_width(), norm_eps, norm_kind};
  }
};

}  // namespace moraine
