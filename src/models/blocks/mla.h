// Multi-head latent attention (DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1): keys and values of all
// heads are made of one narrow latent vector a token, queries likewise where they have one; positions turn dims of
// their own, of which all heads share the key.
//
// Shape suffixes: T tokens, D hidden, N heads, W head width.
#pragma once

#include "models/blocks/linear.h"
#include "models/blocks/norm.h"
#include "nn/rope.h"

namespace moraine {

struct Mla : Block {
  int64_t hidden = 0, heads = 0;
  int64_t q_rank = 0, kv_rank = 0;      // width of the latents; q_rank 0: queries are made of the hidden state itself
  int64_t nope_dim = 0, value_dim = 0;  // of a head: query and key without positions, value
  bool bias = false;                    // of the layers that make latents, and of the output
  RopeSpec rope = {};                   // of rope.dim further dims of a head's query and of the shared key
  bool rope_interleaved = true;         // adjacent pairs, not half-split

  void declare(Declaration& d) const override;
  at::Tensor forward(const at::Tensor& x_TD, const LayerScope& scope) const override;

 private:
  // transformers gives the latents' norms no eps: theirs is the default of its class, whatever rms_norm_eps says.
  static constexpr double kLatentNormEps = 1e-6;

  int64_t qk_dim() const { return nope_dim + rope.dim; }
  Linear q_proj() const { return {"self_attn.q_proj", heads * qk_dim(), hidden}; }
  Linear q_a_proj() const { return {"self_attn.q_a_proj", q_rank, hidden, bias}; }
  RmsNorm q_a_norm() const { return {"self_attn.q_a_layernorm", q_rank, kLatentNormEps}; }
  Linear q_b_proj() const { return {"self_attn.q_b_proj", heads * qk_dim(), q_rank}; }
  Linear kv_a_proj() const { return {"self_attn.kv_a_proj_with_mqa", kv_rank + rope.dim, hidden, bias}; }
  RmsNorm kv_a_norm() const { return {"self_attn.kv_a_layernorm", kv_rank, kLatentNormEps}; }
  Linear kv_b_proj() const { return {"self_attn.kv_b_proj", heads * (nope_dim + value_dim), kv_rank}; }
  Linear o_proj() const { return {"self_attn.o_proj", hidden, heads * value_dim, bias}; }
};

}  // namespace moraine
