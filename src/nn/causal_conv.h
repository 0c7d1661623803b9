// Short causal convolution with a filter of its own for each channel, as the linear-attention layers of Mamba (Gu and
// Dao 2023, https://arxiv.org/abs/2312.00752) and its successors have before their recurrence.
//
// Shape suffixes: T tokens of all sequences, C channels, W filter width, P = W - 1 tokens before.
#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace moraine {

// silu(Σ_j weight[c, j] · x[t - W + 1 + j, c]) within each sequence: its first tokens see zeros before them. The sum is
// taken in fp32 and rounded to x's dtype before SiLU. Differentiable in x; the filter is frozen.
//
// `tail_PC`, when generating (one sequence only, no autograd): the P inputs before these tokens, undefined = the
// sequence begins here; becomes the last P inputs. Else null.
at::Tensor causal_conv_silu(const at::Tensor& x_TC, const at::Tensor& weight_CW, const std::vector<int64_t>& cu_seqlens,
                            at::Tensor* tail_PC);

}  // namespace moraine
