// Compressed entries: one key for every `rate` tokens of a sequence, a mixture of what the tokens of its window say,
// channel by channel.
//
// Shape suffixes: T tokens, E entries of all sequences, R tokens a window (rate), D entry width, C columns of a
// projection.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "models/deepseek_v4/rope.h"
#include "models/model.h"

namespace moraine::deepseek_v4 {

// The windows of a batch's sequences: each begins with its sequence, and what is left at its end has no entry.
struct Windows {
  int64_t rate = 0;
  std::vector<int64_t> cu_entries{0};  // sequence s has the entries [cu_entries[s], cu_entries[s+1])
  at::Tensor token_of_slot;            // int64 [E·R]; undefined: the first E·R tokens, as they lie
  at::Tensor opens_sequence_E;         // bool: the sequence's first window
  Rotation rotation_E;                 // RoPE at the position of each window's first token

  int64_t num_entries() const { return cu_entries.back(); }
};
Windows make_windows(const Batch& batch, int64_t rate, const RopeSpec& rope, at::ScalarType dtype);

struct CompressorWeights {
  at::Tensor position_bias_RC;  // fp32
  at::Tensor kv_norm_D;
  double rms_norm_eps;
};

// HCA: C = D, an entry is Σ softmax(gate + position_bias) · kv over its window. CSA: C = 2·D, the first half of the
// columns speaks for the window after the token's own, the second for its own; an entry mixes both kinds, 2·R slots,
// with one softmax (in fp32). Then normed and rotated. Returns [E, D]. Differentiable in kv and gate.
at::Tensor compress(const at::Tensor& kv_TC, const at::Tensor& gate_TC, const CompressorWeights& weights,
                    const Windows& windows);

}  // namespace moraine::deepseek_v4
