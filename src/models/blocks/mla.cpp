#include "models/blocks/mla.h"

#include <cmath>

#include "models/blocks/rope.h"
#include "nn/attention.h"

namespace moraine {

void Mla::declare(Declaration& d) const {
  if (q_rank == 0) {
    q_proj().declare(d);
  } else {
    q_a_proj().declare(d);
    q_a_norm().declare(d);
    q_b_proj().declare(d);
  }
  kv_a_proj().declare(d);
  kv_a_norm().declare(d);
  kv_b_proj().declare(d);
  o_proj().declare(d);
}

at::Tensor Mla::forward(const at::Tensor& x_TD, const LayerScope& scope) const {
  const int64_t T = x_TD.size(0);
  const at::Tensor q =
      q_rank == 0 ? q_proj()(x_TD, scope) : q_b_proj()(q_a_norm()(q_a_proj()(x_TD, scope), scope.dense), scope);
  const std::vector<at::Tensor> q_parts = q.view({T, heads, qk_dim()}).split_with_sizes({nope_dim, rope.dim}, -1);
  const std::vector<at::Tensor> latent = kv_a_proj()(x_TD, scope).split_with_sizes({kv_rank, rope.dim}, -1);
  const std::vector<at::Tensor> kv_parts = kv_b_proj()(kv_a_norm()(latent[0], scope.dense), scope)
                                               .view({T, heads, nope_dim + value_dim})
                                               .split_with_sizes({nope_dim, value_dim}, -1);
  const RopeTable& table = rope_table(rope, scope.pass, x_TD.scalar_type());
  const auto turned = [&](const at::Tensor& x_TNW) {
    return apply_rope(rope_interleaved ? pairs_to_halves(x_TNW, rope.dim) : x_TNW, table);
  };
  const at::Tensor shared_key = turned(latent[1].unsqueeze(1)).expand({T, heads, rope.dim});
  const at::Tensor q_TNW = at::cat({q_parts[0], turned(q_parts[1])}, -1);
  const at::Tensor k_TNW = at::cat({kv_parts[0], shared_key}, -1);
  KvCache* cache = scope.cache() ? &scope.cache()->of<KvCache>() : nullptr;
  const double scale = rope.score_factor / std::sqrt(static_cast<double>(qk_dim()));
  const at::Tensor attended_TNW =
      causal_attention(q_TNW, k_TNW, kv_parts[1], scope.pass.batch->cu_seqlens, cache, {.scale = scale});
  return o_proj()(attended_TNW.reshape({T, heads * value_dim}), scope);
}

}  // namespace moraine
