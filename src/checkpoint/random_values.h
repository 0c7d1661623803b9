// The values of a random checkpoint: what transformers initialises a new model with, quantised where the hub's layout
// is.
#pragma once

#include <cstddef>
#include <cstdint>

#include "config/hf_config.h"
#include "formats/safetensors.h"
#include "parallel/layer_image.h"

namespace moraine {

// How the elements of a parameter are filled. Codes and scales multiply to about N(0, initializer_range²); a block's
// scale is one of two neighbouring powers of two, so that a scale in the wrong place shows.
struct RandomFill {
  InitialValues plain = InitialValues::kNormal;
  const QuantFormat* codes = nullptr;   // of a parameter that holds codes
  const QuantFormat* scales = nullptr;  // of one that holds the scales of such codes
};

// What all tensors of a checkpoint share.
struct RandomModel {
  uint64_t seed;
  float initializer_range;
  int64_t num_experts;
};

// Writes the elements [first, first + count) of a tensor, as stored. They depend on the model's seed, the tensor's name
// and their index alone. `first` must be even: normal draws come in pairs.
void fill_values(const RandomModel& model, const SafetensorsStream::Declared& tensor, const RandomFill& fill,
                 uint64_t first, uint64_t count, std::byte* into);

}  // namespace moraine
