// Element types of safetensors files.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace moraine {

// In the order of the format's reference implementation, whose writer sorts by it.
enum class DType : uint8_t {
  kBool,
  kF4,  // two elements a byte
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kF64,
  kI64,
  kU64,
};

// Bits of one element.
int dtype_bits(DType dtype);
// The name in a safetensors header ("BF16", "F8_E4M3", …).
std::string_view dtype_name(DType dtype);
std::optional<DType> parse_dtype(std::string_view name);

}  // namespace moraine
