// Vectors of a width that the compiler lowers to what the processor has, and the functions that are compiled for
// several instruction sets. Included by the kernels' .cpp files alone.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

// GCC warns that vectors wider than the default instruction set's would be passed otherwise; none is passed.
#pragma GCC diagnostic ignored "-Wpsabi"

#define MORAINE_INLINE inline __attribute__((always_inline))

// MORAINE_FOR_EACH_ISA(name, parameters, arguments): `name` with those parameters, for the widest instruction set that
// the process uses; calls name##_for<Lanes> with `arguments`, whose Lanes are the floats in a register.
#if defined(__x86_64__)
#define MORAINE_FOR_EACH_ISA(name, parameters, arguments)                                                  \
  __attribute__((target("arch=x86-64-v4"))) static void name##_v4 parameters { name##_for<16> arguments; } \
  __attribute__((target("arch=x86-64-v3"))) static void name##_v3 parameters { name##_for<8> arguments; }  \
  static void name##_v1 parameters { name##_for<4> arguments; }                                            \
  void name parameters {                                                                                   \
    switch (instruction_set()) {                                                                           \
      case InstructionSet::kAvx512:                                                                        \
        return name##_v4 arguments;                                                                        \
      case InstructionSet::kAvx2:                                                                          \
        return name##_v3 arguments;                                                                        \
      case InstructionSet::kBaseline:                                                                      \
        return name##_v1 arguments;                                                                        \
    }                                                                                                      \
  }
#else
#define MORAINE_FOR_EACH_ISA(name, parameters, arguments) \
  void name parameters { name##_for<4> arguments; }
#endif

namespace moraine::kernels {

template <int Lanes>
struct Vectors;  // types of so many lanes

#define MORAINE_VECTORS(lanes)                                                        \
  template <>                                                                         \
  struct Vectors<lanes> {                                                             \
    typedef float Float __attribute__((vector_size(4 * lanes)));                      \
    typedef uint32_t Bits __attribute__((vector_size(4 * lanes)));                    \
    typedef int32_t Int __attribute__((vector_size(4 * lanes)));                      \
    typedef uint16_t Half __attribute__((vector_size(2 * lanes)));                    \
    typedef float HalfFloat __attribute__((vector_size(2 * lanes)));                  \
    typedef double Double __attribute__((vector_size(4 * lanes))); /* half as many */ \
  };
MORAINE_VECTORS(16)
MORAINE_VECTORS(8)
MORAINE_VECTORS(4)
#undef MORAINE_VECTORS

template <typename V, typename T>
MORAINE_INLINE V load(const T* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <typename V, typename T>
MORAINE_INLINE void store(T* to, const V& v) {
  std::memcpy(to, &v, sizeof v);
}

// A number as it lies in memory, bf16 by its bits.
struct BFloat16 {
  uint16_t bits;
};

template <int Lanes>
MORAINE_INLINE typename Vectors<Lanes>::Float load_floats(const float* from) {
  return load<typename Vectors<Lanes>::Float>(from);
}
template <int Lanes>
MORAINE_INLINE typename Vectors<Lanes>::Float load_floats(const BFloat16* from) {
  using V = Vectors<Lanes>;
  const auto half = load<typename V::Half>(from);
  return std::bit_cast<typename V::Float>(__builtin_convertvector(half, typename V::Bits) << 16);
}

template <int Lanes>
MORAINE_INLINE void store_floats(float* to, const typename Vectors<Lanes>::Float& v) {
  store(to, v);
}
// The bits of bf16 in the lower half: rounded to the nearest, ties to even; a NaN stays one.
template <int Lanes>
MORAINE_INLINE typename Vectors<Lanes>::Bits bf16_bits(const typename Vectors<Lanes>::Float& v) {
  using V = Vectors<Lanes>;
  const auto bits = std::bit_cast<typename V::Bits>(v);
  const auto rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const auto is_nan = std::bit_cast<typename V::Bits>(v != v);
  return (rounded & ~is_nan) | (is_nan & 0x7fc0u);
}
template <int Lanes>
MORAINE_INLINE typename Vectors<Lanes>::Float rounded_to_bf16(const typename Vectors<Lanes>::Float& v) {
  return std::bit_cast<typename Vectors<Lanes>::Float>(bf16_bits<Lanes>(v) << 16);
}
template <int Lanes>
MORAINE_INLINE void store_floats(BFloat16* to, const typename Vectors<Lanes>::Float& v) {
  store(to, __builtin_convertvector(bf16_bits<Lanes>(v), typename Vectors<Lanes>::Half));
}

MORAINE_INLINE float to_float(float x) { return x; }
MORAINE_INLINE float to_float(BFloat16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
MORAINE_INLINE void from_float(float x, float* to) { *to = x; }
MORAINE_INLINE void from_float(float x, BFloat16* to) {
  const auto bits = std::bit_cast<uint32_t>(x);
  to->bits = x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace moraine::kernels
