#include "nn/matmul.h"

#include "base/cpu_features.h"

namespace moraine {
namespace {

bool wants_fp32(const at::Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kBFloat16 && !multiplies_bf16(); }

}  // namespace

at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b) {
  return wants_fp32(a) ? at::mm(a.to(at::kFloat), b.to(at::kFloat)).to(a.scalar_type()) : at::mm(a, b);
}

void matmul_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b) {
  if (wants_fp32(out)) {
    out.copy_(at::mm(a.to(at::kFloat), b.to(at::kFloat)));
  } else {
    at::mm_out(out, a, b);
  }
}

void add_matmul(at::Tensor out, const at::Tensor& a, const at::Tensor& b, double scaling) {
  if (wants_fp32(out)) {
    out.copy_(out.to(at::kFloat).addmm_(a.to(at::kFloat), b.to(at::kFloat), 1.0, scaling));
  } else {
    out.addmm_(a, b, 1.0, scaling);
  }
}

}  // namespace moraine
