#include "nn/matmul.h"

#include "base/cpu_features.h"
#include "nn/gemm_shapes.h"
#include "nn/row_products.h"
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

// Whether out = a · b was made by this program's own kernels.
bool made_by_own_kernels(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  if (!own_kernels_multiply(a.device(), a.scalar_type())) return false;
  const bool transposed = b.stride(1) != 1 && b.stride(0) == 1;
  const at::Tensor weight = transposed ? b.t() : b.stride(1) == 1 ? b : b.contiguous();
  row_products(out, a.contiguous(), {{0, a.size(0), weight, {}, {}}},
               transposed ? ProductPass::kForward : ProductPass::kBackward);
  return true;
}

// What oneDNN holds for a product of bf16 on the CPU until it is rounded, where tensors are meta ones and nobody else
// says so: the sums in fp32 (measured, torch 2.13).
at::Tensor sums_of_product(const at::Tensor& a, const at::Tensor& b) {
  const bool counts =
      a.is_meta() && a.scalar_type() == at::kBFloat16 && execution_device(a.device()).is_cpu() && !wants_fp32(a, b);
  return counts ? at::empty({a.size(0), b.size(1)}, a.options().dtype(at::kFloat)) : at::Tensor();
}

}  // namespace

at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b) {
  if (own_kernels_multiply(a.device(), a.scalar_type())) {
    at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
    made_by_own_kernels(out, a, b);
    return out;
  }
  const at::Tensor sums = sums_of_product(a, b);
  return wants_fp32(a, b) ? at::mm(a.to(at::kFloat), b.to(at::kFloat)).to(a.scalar_type()) : at::mm(a, b);
}

void matmul_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b) {
  if (out.is_contiguous() && made_by_own_kernels(out, a, b)) return;
  if (wants_fp32(a, b)) {
    out.copy_(at::mm(a.to(at::kFloat), b.to(at::kFloat)));
  } else {
    const at::Tensor sums = sums_of_product(a, b);
    at::mm_out(out, a, b);
  }
}

void add_matmul(at::Tensor out, const at::Tensor& a, const at::Tensor& b, double scaling) {
  if (wants_fp32(a, b)) {
    out.copy_(out.to(at::kFloat).addmm_(a.to(at::kFloat), b.to(at::kFloat), 1.0, scaling));
  } else {
    const at::Tensor sums = sums_of_product(a, b);
    out.addmm_(a, b, 1.0, scaling);
  }
}

}  // namespace moraine
