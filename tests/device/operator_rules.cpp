#include "device/operator_rules.h"

#include <ATen/Context.h>

#include <atomic>
#include <set>

namespace moraine::testing_support {
namespace {

std::atomic<bool> fp64_products_allowed = false;  // of all threads: backward passes have one of their own

// Rows or columns lie one behind the other, and each begins at a multiple of 16 bytes: what TMA reads.
void check_grouped_operand(const at::Tensor& x, const char* which) {
  TORCH_CHECK(x.scalar_type() == at::kBFloat16, "_grouped_mm: ", which, " is ", x.scalar_type(), ", not bfloat16");
  const int64_t element = x.element_size();
  TORCH_CHECK(reinterpret_cast<uintptr_t>(x.storage().data()) % 16 == 0 && x.storage_offset() * element % 16 == 0,
              "_grouped_mm: ", which, " does not begin at a multiple of 16 bytes");
  const int64_t rows = x.stride(-2), columns = x.stride(-1);
  const bool row_major = columns == 1 && rows >= std::max<int64_t>(1, x.size(-1));
  const bool column_major = rows == 1 && columns >= std::max<int64_t>(1, x.size(-2));
  TORCH_CHECK(row_major || column_major, "_grouped_mm: ", which, " has strides ", x.strides(),
              ": neither rows nor columns are contiguous");
  const int64_t pitch = row_major ? rows : columns;
  TORCH_CHECK(pitch * element % 16 == 0, "_grouped_mm: ", which, " has a stride of ", pitch * element,
              " bytes, no multiple of 16");
}

void check_grouped_mm(c10::ArrayRef<c10::IValue> arguments) {
  const at::Tensor a = arguments[0].toTensor(), b = arguments[1].toTensor();
  check_grouped_operand(a, "self");
  check_grouped_operand(b, "mat2");
  TORCH_CHECK(arguments[2].isTensor(), "_grouped_mm: 2-D operands need offs");
  const at::Tensor offs = arguments[2].toTensor();
  TORCH_CHECK(offs.scalar_type() == at::kInt && offs.dim() == 1, "_grouped_mm: offs is not int32 and 1-D");
  TORCH_CHECK(offs.size(0) < 1024, "_grouped_mm: ", offs.size(0), " groups; fewer than 1024 are possible");
  TORCH_CHECK(a.dim() == 2, "_grouped_mm: self is ", a.dim(), "-D");
  if (b.dim() == 3) {
    TORCH_CHECK(b.size(0) == offs.size(0), "_grouped_mm: as many groups as matrices");
  } else {  // groups of the inner dimension: uneven ones are read right in these layouts only
    TORCH_CHECK(a.stride(0) == 1 && b.stride(1) == 1, "_grouped_mm: with groups of the inner dimension self must be ",
                "column-major and mat2 row-major");
  }
}

void check_product(const std::string& name, c10::ArrayRef<c10::IValue> arguments) {
  if (fp64_products_allowed) return;
  for (const c10::IValue& argument : arguments)
    TORCH_CHECK(!argument.isTensor() || argument.toTensor().scalar_type() != at::kDouble, name,
                ": a product in fp64, which is slow or missing on GPUs");
}

void check_attention(const std::string& name, c10::ArrayRef<c10::IValue> arguments) {
  const at::Tensor q = arguments[0].toTensor();
  TORCH_CHECK(q.numel() > 0, name, ": empty");
  const int64_t width = q.size(-1);
  TORCH_CHECK(width % 8 == 0 && width <= 256, name, ": a head's width is ", width,
              "; fused attention has multiples of 8 up to 256");
  TORCH_CHECK(arguments[1].toTensor().size(1) == arguments[2].toTensor().size(1), name, ": k and v have other heads");
}

}  // namespace

void check_cuda_rules(const std::string& name, c10::ArrayRef<c10::IValue> arguments) {
  static const std::set<std::string> products{"mm", "bmm", "addmm", "baddbmm", "addbmm", "addmv", "mv", "dot"};
  if (name == "_grouped_mm") check_grouped_mm(arguments);
  if (products.contains(name)) check_product(name, arguments);
  if (name.starts_with("_scaled_dot_product")) check_attention(name, arguments);
  TORCH_CHECK(name != "cumsum" || !at::globalContext().deterministicAlgorithms() ||
                  !arguments[0].toTensor().is_floating_point(),
              "cumsum of floats has no deterministic kernel");
}

void allow_fp64_products(bool allow) { fp64_products_allowed = allow; }

bool waits_for_values(const std::string& name) {
  static const std::set<std::string> names{
      "_local_scalar_dense", "nonzero",  "masked_select", "_unique2",          "unique_dim", "equal",
      "repeat_interleave",   "bincount", "is_nonzero",    "unique_consecutive"};
  return names.contains(name);
}

}  // namespace moraine::testing_support
