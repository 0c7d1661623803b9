// Counter-based random numbers: element i depends on (seed, name, i) alone, so that any rank can make any part.
#pragma once

#include <cstdint>
#include <string_view>

namespace moraine {

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64-bit words.
inline uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

class CounterRandom {
 public:
  CounterRandom(uint64_t seed, std::string_view name) : key_(mix64(seed)) {
    for (unsigned char c : name) key_ = mix64(key_ ^ c);
  }
  uint64_t bits(uint64_t i) const { return mix64(key_ + mix64(i)); }
  // In [0, 1), 53 random bits.
  double uniform(uint64_t i) const { return static_cast<double>(bits(i) >> 11) * 0x1.0p-53; }
  // Standard normal (Box–Muller over two draws).
  double normal(uint64_t i) const;

 private:
  uint64_t key_;
};

}  // namespace moraine
