#include "models/blocks/gqa.h"

#include <fmt/format.h>

#include <algorithm>

#include "nn/attention.h"
#include "nn/rope.h"

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
  const RopeTable& rope = scope.pass.once<RopeTable>(fmt::format("rope {} {}", rotary_dim, rope_theta), [&] {
    return make_rope_table(scope.pass.batch->position_ids_T, rotary_dim, rope_theta, x_TD.scalar_type());
  });
  KvCache* cache = scope.cache() ? &scope.cache()->of<KvCache>() : nullptr;
  at::Tensor attended_TNW = causal_attention(apply_rope(q_TNW, rope), apply_rope(k_TKW, rope),
                                             v.view({T, kv_heads, head_dim}), scope.pass.batch->cu_seqlens, cache);
  if (output_gate) attended_TNW = attended_TNW * gate_TNW.sigmoid();
  return o_proj()(attended_TNW.reshape({T, q_width()}), scope);
}

}  // namespace moraine
