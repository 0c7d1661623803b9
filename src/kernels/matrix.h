// Matrices in memory as kernels see them.
#pragma once

#include <cstdint>

namespace moraine::kernels {

enum class Number : uint8_t { kF32, kBF16 };
constexpr int64_t size_of(Number number) { return number == Number::kF32 ? 4 : 2; }

// Row by row; a row's elements lie side by side.
struct Matrix {
  const void* data = nullptr;
  Number number = Number::kF32;
  int64_t row_stride = 0;  // elements

  Matrix from(int64_t row, int64_t column) const {
    return {static_cast<const char*>(data) + (row * row_stride + column) * size_of(number), number, row_stride};
  }
};
struct MutableMatrix {
  void* data = nullptr;
  Number number = Number::kF32;
  int64_t row_stride = 0;

  MutableMatrix from(int64_t row) const {
    return {static_cast<char*>(data) + row * row_stride * size_of(number), number, row_stride};
  }
};

}  // namespace moraine::kernels
