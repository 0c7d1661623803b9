// DeepSeek-V4's attention: many query heads over one head that is key and value at once, a sliding window of tokens and
// any number of compressed entries before it, and a sink for each head.
//
// Shape suffixes: T tokens, E entries of all sequences, N query heads, D head width, K entries that a token chose.
#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace moraine::deepseek_v4 {

// What a token attends to: of its sequence the last `window` tokens up to itself, and of the sequence's entries those
// whose windows ended at it or before; where `chosen` is defined only the ones it chose.
struct AttentionPattern {
  std::vector<int64_t> cu_seqlens{0};
  int64_t window = 0;
  int64_t rate = 0;                 // tokens an entry stands for; 0 = no entries
  std::vector<int64_t> cu_entries;  // of each sequence
  // Of each sequence (or empty): int32 [tokens from first_choosing on, K], counted from the sequence's first entry.
  std::vector<at::Tensor> chosen;
  int64_t first_choosing = 0;
};

// softmax([q·kᵀ·scale | sink])·k without the sink's column, where k is tokens' and entries' keys: [T, N, D]. Scores are
// made for a block of tokens at a time and again in the backward pass, so memory grows with the length, not with its
// square. Products in the inputs' dtype, softmax in fp32. `entries_ED` is undefined when there are none. Differentiable
// in q, kv and entries.
at::Tensor sink_attention(const at::Tensor& q_TND, const at::Tensor& kv_TD, const at::Tensor& entries_ED,
                          const at::Tensor& sinks_N, double scale, AttentionPattern pattern);

// Tokens of such a block.
inline constexpr int64_t kQueryBlock = 128;

}  // namespace moraine::deepseek_v4
