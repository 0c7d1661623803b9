// A weight of an image as linear layers take it.
#pragma once

#include <string>

#include "nn/quantized_weight.h"
#include "parallel/weight_store.h"

namespace moraine {

inline FrozenWeight weight_of(const ImageView& image, const std::string& name) {
  const ImageView::Weight& weight = image.weight(name);
  if (!weight.quant) return {weight.transposed ? weight.values.transpose(-1, -2) : weight.values};
  return {weight.values, weight.scales, *weight.quant, weight.matrices};
}

}  // namespace moraine
