#include "models/blocks/gqa.h"

#include "models/blocks/rope.h"
#include "nn/attention.h"

namespace moraine {

void Gqa::declare(Declaration& d) const {
  for (const Linear& linear : {q_proj(), k_proj(), v_proj(), o_proj()}) linear.declare(d);
  if (qk_norm == QkNorm::kNone) return;
  q_norm().declare(d);
  k_norm().declare(d);
}

at::Tensor Gqa::forward(const at::Tensor& x_TD, const LayerScope& scope) const {
  const int64_t T = x_TD.size(0);
  at::Tensor q = q_proj()(x_TD, scope), k = k_proj()(x_TD, scope), v = v_proj()(x_TD, scope), gate_TNW;
  if (output_gate) {  // each head's query, then its gate
    const std::vector<at::Tensor> halves = q.view({T, heads, 2 * head_dim}).split(head_dim, -1);
    q = halves[0];
    gate_TNW = halves[1];
  }
  if (qk_norm == QkNorm::kWidth) {
    q = q_norm()(q, scope.dense);
    k = k_norm()(k, scope.dense);
  }
  if (clip) {
    q = q.clamp(-*clip, *clip);
    k = k.clamp(-*clip, *clip);
    v = v.clamp(-*clip, *clip);
  }
  at::Tensor q_TNW = q.view({T, heads, head_dim}), k_TKW = k.view({T, kv_heads, head_dim});
  if (qk_norm == QkNorm::kHead) {
    q_TNW = q_norm()(q_TNW, scope.dense);
    k_TKW = k_norm()(k_TKW, scope.dense);
  }
  if (rope_interleaved) {
    q_TNW = pairs_to_halves(q_TNW, rope.dim);
    k_TKW = pairs_to_halves(k_TKW, rope.dim);
  }
  const at::ScalarType dtype = rope_in_fp32 ? at::kFloat : x_TD.scalar_type();
  const RopeTable& table = rope_table(rope, scope.pass, dtype);
  const auto turned = [&](const at::Tensor& x) { return apply_rope(x.to(dtype), table).to(x.scalar_type()); };
  KvCache* cache = scope.cache() ? &scope.cache()->of<KvCache>() : nullptr;
  at::Tensor attended_TNW = causal_attention(turned(q_TNW), turned(k_TKW),
                                             v.view({T, kv_heads, head_dim}), scope.pass.batch->cu_seqlens, cache);
  if (output_gate) attended_TNW = attended_TNW * gate_TNW.sigmoid();
  return o_proj()(attended_TNW.reshape({T, q_width()}), scope);
}

}  // namespace moraine
