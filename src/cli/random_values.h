// The values of a random checkpoint: what transformers initialises a new model with, quantised where the hub's layout is.
#pragma once

#include <cstddef>
#include <cstdint>

#include "config/hf_config.h"
#include "formats/safetensors.h"
#include "parallel/layer_image.h"

namespace moraine {

enum class Values {
  kNormal,      // N(0, initializer_range²)
  kZeros,       // biases, sinks, norm weights of families that add 1 to them
  kOnes,        // norm weights, scales of hyper-connections, dt_bias
  kLogUniform,  // log of a number between 0.01 and 16: A_log
  kExpertIds,   // rows of different expert ids: tid2eid
  // Codes and scales that multiply to about N(0, initializer_range²). A block's scale is one of two neighbouring powers of
  // two, so that a scale in the wrong place shows.
  kFp8Codes,
  kFp8Scales,
  kFp4Codes,
  kFp4Scales,
};

// How the tensors of `param` are filled.
Values initial_values(const HfConfig& config, const ImageSpec& image, const ParamSpec& param);

// What all tensors of a checkpoint share.
struct RandomModel {
  uint64_t seed;
  float initializer_range;
  int64_t num_experts;
};

// Writes the elements [first, first + count) of a tensor, as stored. They depend on the model's seed, the tensor's name and
// their index alone. `first` must be even: normal draws come in pairs.
void fill_values(const RandomModel& model, const SafetensorsStream::Declared& tensor, Values values, uint64_t first,
                 uint64_t count, std::byte* into);

}  // namespace moraine
