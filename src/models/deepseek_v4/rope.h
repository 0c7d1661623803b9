// DeepSeek-V4's rotary position embedding: interleaved pairs in the last dims of a head, with YaRN for long contexts.
//
// Shape suffixes: T tokens, N heads, D head width, P pairs that turn (RopeSpec::dim / 2).
#pragma once

#include <ATen/ATen.h>

#include "models/deepseek_v4/config.h"

namespace moraine::deepseek_v4 {

// cos + i·sin of each token's and pair's angle: complex64, rounded to the activation dtype as transformers does.
struct Rotation {
  at::Tensor turn_TP;
};

Rotation make_rotation(const at::Tensor& position_ids_T, const RopeSpec& rope, at::ScalarType dtype);

enum class Turn {
  kForward,
  kBack,  // by the opposite angle
};
// Turns the pairs (x[2i], x[2i+1]) of the last 2·P elements of each head, in fp32; the others stay. x: [T, N, D] or [T,
// D]. Differentiable.
at::Tensor rotate(const at::Tensor& x, const Rotation& rotation, Turn turn = Turn::kForward);

}  // namespace moraine::deepseek_v4
