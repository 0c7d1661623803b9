#include "nn/attention.h"

#include <algorithm>

#include "base/error.h"
#include "nn/masked_attention.h"

namespace moraine {
namespace {

// scaled_dot_product_attention chooses a kernel by the device. Meta tensors take the one that the CPU has; CUDA's
// returns the same: the output and a logarithm in fp32 for each row of scores.
at::Tensor fused_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const std::optional<at::Tensor>& mask, bool causal, std::optional<double> scale) {
  if (q.is_meta())
    return std::get<0>(
        at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, /*dropout_p=*/0.0, causal, mask, scale));
  const bool grouped = k.size(1) != q.size(1);
  return at::scaled_dot_product_attention(q, k, v, mask, /*dropout_p=*/0.0, causal, scale, grouped);
}

// One sequence: q [T,N,D], k and v [S,K,D] with S >= T; the queries are the last T of the S positions.
at::Tensor attend(const at::Tensor& q_TND, const at::Tensor& k_SKD, const at::Tensor& v_SKD,
                  const AttentionOptions& options) {
  const int64_t window = options.window < k_SKD.size(0) ? options.window : 0;
  if (window > 0 || options.sinks_N.defined()) {
    MORAINE_ASSERT(!options.scale && v_SKD.size(2) == q_TND.size(2), "no scale with a window or sinks");
    return masked_attention(q_TND, k_SKD, v_SKD, window, options.sinks_N);
  }
  const int64_t tokens = q_TND.size(0), seen = k_SKD.size(0), heads_per_kv = q_TND.size(1) / k_SKD.size(1);
  // Flash attention, the CPU's and CUDA's, wants one width; other kernels keep all scores.
  const int64_t value_width = v_SKD.size(2), missing = q_TND.size(2) - value_width;
  auto by_head = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };
  std::optional<at::Tensor> mask;
  if (tokens != seen && tokens > 1) {
    mask = at::ones({tokens, seen}, q_TND.options().dtype(at::kBool)).tril(seen - tokens);
  }
  at::Tensor k = k_SKD, v = missing > 0 ? at::constant_pad_nd(v_SKD, {0, missing}) : v_SKD;
  if (heads_per_kv > 1 && !(has_flash_attention(q_TND) && !mask)) {
    k = k.repeat_interleave(heads_per_kv, 1);
    v = v.repeat_interleave(heads_per_kv, 1);
  }
  const bool causal = tokens == seen && tokens > 1;
  const at::Tensor out = fused_attention(by_head(q_TND), by_head(k), by_head(v), mask, causal, options.scale);
  return (missing > 0 ? out.narrow(-1, 0, value_width) : out).squeeze(0).transpose(0, 1);
}

}  // namespace

at::Tensor causal_attention(const at::Tensor& q_TND, const at::Tensor& k_TKD, const at::Tensor& v_TKD,
                            const std::vector<int64_t>& cu_seqlens, KvCache* cache, const AttentionOptions& options) {
  if (cache) {
    MORAINE_ASSERT(cu_seqlens.size() == 2, "a cache serves one sequence");
    cache->k_SKD = cache->k_SKD.defined() ? at::cat({cache->k_SKD, k_TKD}) : k_TKD;
    cache->v_SKD = cache->v_SKD.defined() ? at::cat({cache->v_SKD, v_TKD}) : v_TKD;
    if (options.window > 0) {  // what no later token sees is dropped
      const int64_t seen = cache->k_SKD.size(0), kept = std::min(seen, options.window - 1 + q_TND.size(0));
      cache->k_SKD = cache->k_SKD.narrow(0, seen - kept, kept);
      cache->v_SKD = cache->v_SKD.narrow(0, seen - kept, kept);
    }
    return attend(q_TND, cache->k_SKD, cache->v_SKD, options);
  }
  if (cu_seqlens.size() == 2) return attend(q_TND, k_TKD, v_TKD, options);
  std::vector<at::Tensor> outputs;
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    const int64_t begin = cu_seqlens[s], length = cu_seqlens[s + 1] - begin;
    outputs.push_back(attend(q_TND.narrow(0, begin, length), k_TKD.narrow(0, begin, length),
                             v_TKD.narrow(0, begin, length), options));
  }
  if (outputs.empty()) return at::empty({0, q_TND.size(1), v_TKD.size(2)}, q_TND.options());
  return at::cat(outputs);
}

}  // namespace moraine
