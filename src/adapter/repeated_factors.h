// Reads a factor that all experts share from PEFT's layouts, which have it as often as there are experts: the copies
// are compared while they are read, a piece in the processor's cache at a time, and only one of them is kept.
#pragma once

#include <ATen/ATen.h>

#include "formats/safetensors.h"

namespace moraine {

// Of a tensor [E·R, I], one expert's rows after another's: the [R, I] of each, as stored. Throws an input error that
// names the tensor where a bit of them differs.
at::Tensor read_repeated_rows(const SafetensorsHeader& header, const SafetensorsEntry& entry, int64_t num_experts);

// Of a tensor [O, R·E], in which each value stands E times in a row: the [O, R] of them.
at::Tensor read_repeated_columns(const SafetensorsHeader& header, const SafetensorsEntry& entry, int64_t num_experts);

}  // namespace moraine
