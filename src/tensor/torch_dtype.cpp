#include "tensor/torch_dtype.h"

#include <array>
#include <utility>

#include "base/error.h"

namespace moraine {
namespace {

constexpr std::array<std::pair<DType, c10::ScalarType>, 15> kPairs{{
    {DType::kBool, c10::ScalarType::Bool},
    {DType::kU8, c10::ScalarType::Byte},
    {DType::kI8, c10::ScalarType::Char},
    {DType::kF8E5M2, c10::ScalarType::Float8_e5m2},
    {DType::kF8E4M3, c10::ScalarType::Float8_e4m3fn},
    {DType::kF8E8M0, c10::ScalarType::Float8_e8m0fnu},
    {DType::kI16, c10::ScalarType::Short},
    {DType::kU16, c10::ScalarType::UInt16},
    {DType::kF16, c10::ScalarType::Half},
    {DType::kBF16, c10::ScalarType::BFloat16},
    {DType::kI32, c10::ScalarType::Int},
    {DType::kU32, c10::ScalarType::UInt32},
    {DType::kF32, c10::ScalarType::Float},
    {DType::kF64, c10::ScalarType::Double},
    {DType::kI64, c10::ScalarType::Long},
}};

}  // namespace

c10::ScalarType torch_dtype(DType dtype) {
  for (auto [ours, torchs] : kPairs)
    if (ours == dtype) return torchs;
  MORAINE_ASSERT(false, "no torch dtype for " + std::string(dtype_name(dtype)));
}

DType from_torch_dtype(c10::ScalarType dtype) {
  for (auto [ours, torchs] : kPairs)
    if (torchs == dtype) return ours;
  MORAINE_ASSERT(false, std::string("no safetensors dtype for ") + c10::toString(dtype));
}

}  // namespace moraine
