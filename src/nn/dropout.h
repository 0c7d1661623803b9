// Dropout of what goes into an adapter (Srivastava et al. 2014), by counters instead of a generator's state.
//
// Whether an element is left out is a function of its layer, its token and its place alone: the same on every rank, in
// every micro-batch and in a recomputation, and nothing is kept for the backward pass.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "nn/lora.h"

namespace moraine {

// LoraDropout::layer_key of the layer with this name.
uint64_t dropout_layer_key(std::string_view name);

// The key of a step's sequence number `sequence`, and of that sequence's token number `token`.
uint64_t dropout_sequence_key(uint64_t seed, int64_t step, int64_t sequence);
int64_t dropout_token_key(uint64_t sequence_key, int64_t token);

// What x_TI, fp32, is multiplied with: 0, or 1 / (1 - rate) with that probability. fp32, on the keys' device.
at::Tensor dropout_factors_TI(const LoraDropout& dropout, int64_t width);
// The same by tensor operations, as on a device that is not the CPU.
at::Tensor dropout_factors_by_tensors_TI(const LoraDropout& dropout, int64_t width);

}  // namespace moraine
