// Byte counts and overflow-checked arithmetic on them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace moraine {

inline std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) {
  uint64_t r;
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}

inline std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) {
  uint64_t r;
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}

// Smallest multiple of `step` that is >= n. step > 0; n + step must not overflow.
inline uint64_t round_up(uint64_t n, uint64_t step) { return (n + step - 1) / step * step; }

// "1.5 GiB", "37 MiB", "900 B".
std::string format_bytes(uint64_t bytes);

// The bytes of "80GiB", "1.5 TB", "4096": KiB … PiB count in 1024, kB … PB in 1000, a lone K, M, G, T or P in 1024;
// case does not matter. nullopt when it is no size that fits 63 bits.
std::optional<uint64_t> parse_bytes(std::string_view text);

}  // namespace moraine
