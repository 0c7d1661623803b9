#include "checkpoint/random_values.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Float8_e4m3fn.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/random.h"

namespace moraine {
namespace {

// Two independent standard normals from 64 random bits (Box and Muller 1958), none above kLargestNormal.
std::pair<float, float> normal_pair(uint64_t bits) {
  const float uniform = static_cast<float>((static_cast<double>(bits >> 32) + 1.0) * 0x1p-32);  // (0, 1]
  const float angle = static_cast<float>(static_cast<uint32_t>(bits)) * static_cast<float>(0x1p-31 * std::numbers::pi);
  const float radius = std::sqrt(-2.0f * std::log(uniform));
  return {radius * std::cos(angle), radius * std::sin(angle)};
}
constexpr float kLargestNormal = 6.7f;  // sqrt(2 log 2^32)

// Calls write(i, normal) for i < count with the normals of the elements from `first` on.
template <typename Write>
void for_each_normal(const CounterRandom& random, uint64_t first, uint64_t count, const Write& write) {
  for (uint64_t i = 0; i < count; i += 2) {
    const auto [a, b] = normal_pair(random.bits((first + i) / 2));
    write(i, a);
    if (i + 1 < count) write(i + 1, b);
  }
}

// code × 2^exponent or code × 2^(exponent - 1), each for half of the blocks, with codes from N(0, code_range²).
struct Quantized {
  float code_range;
  int exponent;
};

Quantized quantized(const RandomModel& model, bool fp4) {
  if (model.initializer_range == 0) return {0, 0};
  // The blocks' mean square is (1 + 1/4) / 2 of that of the larger scale alone.
  const float range = model.initializer_range / std::sqrt(0.625f);
  // FP4: codes of 1 to 2 on average, of at most 6. FP8: the largest draw just stays below the largest code.
  const float exponent = fp4 ? std::floor(std::log2(range)) : std::ceil(std::log2(range * kLargestNormal / 448));
  const float clamped = std::clamp(exponent, -120.0f, 120.0f);
  return {range / std::exp2(clamped), static_cast<int>(clamped)};
}

// The nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives, as its code (E2M1).
uint8_t to_fp4(float value) {
  constexpr float kMiddles[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const float magnitude = std::abs(value);
  const auto code = std::upper_bound(std::begin(kMiddles), std::end(kMiddles), magnitude) - std::begin(kMiddles);
  return static_cast<uint8_t>(code | (std::signbit(value) ? 8 : 0));
}

template <typename Element>
void fill_floats(const RandomModel& model, const CounterRandom& random, InitialValues values, uint64_t first,
                 uint64_t count, Element* into) {
  switch (values) {
    case InitialValues::kZeros:
      return void(std::fill_n(into, count, static_cast<Element>(0.0f)));
    case InitialValues::kOnes:
      return void(std::fill_n(into, count, static_cast<Element>(1.0f)));
    case InitialValues::kLogUniform:
      for (uint64_t i = 0; i < count; ++i)
        into[i] = static_cast<Element>(static_cast<float>(std::log(0.01 + 15.99 * random.uniform(first + i))));
      return;
    default:
      return for_each_normal(random, first, count, [&](uint64_t i, float normal) {
        into[i] = static_cast<Element>(normal * model.initializer_range);
      });
  }
}

// Row r holds start, start + step, start + 2·step … modulo the number of experts, with a step that meets them all.
void fill_expert_ids(const RandomModel& model, const CounterRandom& random, int64_t row_length, uint64_t first,
                     uint64_t count, int64_t* into) {
  for (uint64_t i = 0; i < count; ++i) {
    const int64_t row = static_cast<int64_t>(first + i) / row_length,
                  place = static_cast<int64_t>(first + i) % row_length;
    const uint64_t bits = random.bits(row), experts = model.num_experts;
    uint64_t step = (bits >> 32) % experts;
    while (std::gcd(step, experts) != 1) ++step;
    into[i] = static_cast<int64_t>((bits % experts + place * step) % experts);
  }
}

void fill_scales(const Quantized& q, const CounterRandom& random, DType dtype, uint64_t first, uint64_t count,
                 std::byte* into) {
  for (uint64_t i = 0; i < count; ++i) {
    const int exponent = q.exponent - static_cast<int>(random.bits(first + i) & 1);
    if (dtype == DType::kF8E8M0 || dtype == DType::kU8) {
      into[i] = static_cast<std::byte>(exponent + 127);
    } else if (dtype == DType::kBF16) {
      reinterpret_cast<c10::BFloat16*>(into)[i] = std::exp2(static_cast<float>(exponent));
    } else {
      reinterpret_cast<float*>(into)[i] = std::exp2(static_cast<float>(exponent));
    }
  }
}

}  // namespace

void fill_values(const RandomModel& model, const SafetensorsStream::Declared& tensor, const RandomFill& fill,
                 uint64_t first, uint64_t count, std::byte* into) {
  const CounterRandom random(model.seed, tensor.name);
  if (fill.scales)
    return fill_scales(quantized(model, fill.scales->is_fp4()), random, tensor.dtype, first, count, into);
  if (fill.codes && fill.codes->is_fp4()) {
    const float range = quantized(model, true).code_range;
    for (uint64_t i = 0; i < count; ++i) {
      const auto [low, high] = normal_pair(random.bits(first + i));
      into[i] = static_cast<std::byte>(to_fp4(low * range) | to_fp4(high * range) << 4);
    }
    return;
  }
  if (fill.codes) {
    const float range = quantized(model, false).code_range;
    return for_each_normal(random, first, count, [&](uint64_t i, float normal) {
      into[i] = static_cast<std::byte>(c10::Float8_e4m3fn(normal * range).x);
    });
  }
  if (fill.plain == InitialValues::kExpertIds)
    return fill_expert_ids(model, random, tensor.shape.back(), first, count, reinterpret_cast<int64_t*>(into));
  if (tensor.dtype == DType::kBF16) {
    return fill_floats(model, random, fill.plain, first, count, reinterpret_cast<c10::BFloat16*>(into));
  }
  MORAINE_ASSERT(tensor.dtype == DType::kF32, "no random values for the dtype of " + tensor.name);
  fill_floats(model, random, fill.plain, first, count, reinterpret_cast<float*>(into));
}

}  // namespace moraine
