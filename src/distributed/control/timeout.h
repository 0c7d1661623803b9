// dist.timeout_seconds as the clock counts it.
#pragma once

#include <algorithm>
#include <chrono>

namespace moraine {

// Longer ones, up to infinity, are 30 years: what a deadline can be computed with.
inline std::chrono::milliseconds timeout_from_seconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(std::min(seconds, 1e9) * 1000));
}

}  // namespace moraine
