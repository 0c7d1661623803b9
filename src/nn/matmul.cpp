#include "nn/matmul.h"

#include "base/cpu_features.h"
#include "nn/gemm_shapes.h"
#include "tensor/execution_device.h"

namespace moraine {
namespace {

// libtorch multiplies bf16 matrices of at most so many rows × summands × columns by a loop of its own, which adds in
// another order than oneDNN does with larger ones.
constexpr int64_t kSmallProduct = 16 * 16 * 16;

// a [M, K] times b [K, N]. Not by M: a row's bits must not depend on what rows share the call.
bool wants_fp32(const at::Tensor& a, const at::Tensor& b) {
  if (!execution_device(a.device()).is_cpu() || a.scalar_type() != at::kBFloat16) return false;
  return !multiplies_bf16() || b.numel() * gemm_row_alignment(a.device(), a.scalar_type()) <= kSmallProduct;
}

}  // namespace

at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b) {
  return wants_fp32(a, b) ? at::mm(a.to(at::kFloat), b.to(at::kFloat)).to(a.scalar_type()) : at::mm(a, b);
}

void matmul_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b) {
  if (wants_fp32(a, b)) {
    out.copy_(at::mm(a.to(at::kFloat), b.to(at::kFloat)));
  } else {
    at::mm_out(out, a, b);
  }
}

void add_matmul(at::Tensor out, const at::Tensor& a, const at::Tensor& b, double scaling) {
  if (wants_fp32(a, b)) {
    out.copy_(out.to(at::kFloat).addmm_(a.to(at::kFloat), b.to(at::kFloat), 1.0, scaling));
  } else {
    out.addmm_(a, b, 1.0, scaling);
  }
}

}  // namespace moraine
