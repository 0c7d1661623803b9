// A weight of an image, with its scales where it is quantised.
#pragma once

#include <string>

#include "nn/quantized_weight.h"
#include "parallel/weight_store.h"

namespace moraine {

// The slot `name`; the slot of its scales is called `name`_scale (models/param_specs.h). `blocks`: where they do not divide it evenly.
inline FrozenWeight weight_of(const ImageView& image, const std::string& name, ScaleBlocks blocks = {}) {
  const std::string scale = name + "_scale";
  if (!image.has(scale)) return {image[name]};
  return {image[name], image[scale], blocks};
}

}  // namespace moraine
