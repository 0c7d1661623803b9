// Gated delta rule: linear attention whose state forgets and corrects itself (Yang, Kautz and Hatamizadeh 2024,
// https://arxiv.org/abs/2412.06464).
//
// For every value head and token, with unit vectors q and k:
//   S ← exp(log_decay)·S;  S ← S + k ⊗ beta·(v - kᵀS);  o = qᵀS/√D
//
// Shape suffixes: T tokens of all sequences, K key heads, V value heads (a multiple of K), D key width, W value width.
#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace moraine {

constexpr int64_t kDeltaChunkRows = 64;  // of a chunk; shorter ones where no sequence is that long

// How the sequences of a batch are cut into chunks, which are worked on side by side as far as the recurrence allows.
// The first chunks of all sequences come first, then their second ones, and so on; longer sequences before shorter
// ones, so that those that go on are always the first of a step.
struct DeltaChunks {
  int64_t rows = 0;                        // tokens a chunk has room for
  int64_t count = 0;                       // chunks of all sequences
  std::vector<int64_t> sequences_of_step;  // how many sequences have a chunk number i
  at::Tensor slot_of_token_T;              // int64: chunk · rows + place in the chunk
};
DeltaChunks plan_delta_chunks(const std::vector<int64_t>& cu_seqlens, at::Device device);

// q and k [T,K,D] are brought to unit length here and shared by V/K neighbouring value heads; v [T,V,W]; log_decay (≤
// 0) and beta [T,V]. Calculated in fp32 (fp64 for fp64 input) in chunks: a few products of matrices a chunk, no loop
// over tokens. The state begins anew with each sequence. Returns [T,V,W] in v's dtype. Differentiable in all five;
// `chunks` must outlive the backward pass.
//
// `state`, when generating (one sequence only, no autograd): what the tokens before left behind, undefined = the
// sequence begins here; is replaced by what these leave. Else null.
at::Tensor gated_delta_rule(const at::Tensor& q_TKD, const at::Tensor& k_TKD, const at::Tensor& v_TVW,
                            const at::Tensor& log_decay_TV, const at::Tensor& beta_TV, const DeltaChunks& chunks,
                            at::Tensor* state);

}  // namespace moraine
