// Manifold-constrained hyper-connections (mHC): the residual is N streams, which a layer reads as one, writes to and
// mixes by weights that it makes of the streams themselves. All weights in fp32.
//
// Shape suffixes: T tokens, N streams, D hidden, W weights.
#pragma once

#include <ATen/ATen.h>

namespace moraine::deepseek_v4 {

// The parameters of one place where a layer reads and writes the streams, and the constants of all.
struct StreamWeights {
  at::Tensor fn_WD;   // fp32 [W, N·D]
  at::Tensor base_W;  // fp32
  at::Tensor scale;   // fp32 [3]: of reading, writing, mixing; [1] for reading alone
};
struct StreamConstants {
  double rms_norm_eps, hc_eps;
  int64_t sinkhorn_iters;
};

struct HyperConnection {
  at::Tensor input_TD;  // what the layer reads: Σ pre · streams, in the streams' dtype
  at::Tensor post_TN;   // how much of its output goes to each stream
  at::Tensor comb_TNN;  // how much of stream j goes to stream k: [T, j, k], rows and columns sum to 1
};

// W = 2N + N². Differentiable in the streams.
HyperConnection connect(const at::Tensor& streams_TND, const StreamWeights& weights, const StreamConstants& constants);
// post ⊗ y + combᵀ · streams, in the streams' dtype. Differentiable in everything.
at::Tensor write_back(const at::Tensor& y_TD, const at::Tensor& streams_TND, const HyperConnection& connection);
// The streams as one hidden state before the final norm. W = N.
at::Tensor collapse_streams(const at::Tensor& streams_TND, const StreamWeights& weights,
                            const StreamConstants& constants);

// The nearest matrices whose rows and columns sum to 1 to softmax(logits) over k, by `iters` rounds of Sinkhorn and
// Knopp. fp32. Differentiable; keeps only the logits.
at::Tensor sinkhorn(const at::Tensor& logits_TNN, int64_t iters, double eps);

}  // namespace moraine::deepseek_v4
