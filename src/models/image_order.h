// Which image of a model is which: the order of image_specs, of a placement's shards and of the WeightStore.
#pragma once

#include <cstdint>

namespace moraine {

inline constexpr int kRootImage = 0;
inline int dense_image(int64_t layer) { return static_cast<int>(1 + 2 * layer); }
inline int experts_image(int64_t layer) { return static_cast<int>(2 + 2 * layer); }

}  // namespace moraine
