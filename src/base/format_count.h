// Large counts for a reader.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>

namespace moraine {

// "30.53 B", "8.1 M", "512".
inline std::string format_count(uint64_t count) {
  if (count >= 1'000'000'000) return fmt::format("{:.2f} B", count / 1e9);
  if (count >= 1'000'000) return fmt::format("{:.1f} M", count / 1e6);
  if (count >= 10'000) return fmt::format("{:.1f} K", count / 1e3);
  return std::to_string(count);
}

}  // namespace moraine
