// Matrix products that are fast in bf16 on every CPU.
//
// libtorch multiplies bf16 matrices with oneDNN where the CPU has AVX-512, and elsewhere on x86 by a plain loop, fifty
// times slower than its fp32 products: there these take the product in fp32 and round it once, which is what oneDNN
// computes.
#pragma once

#include <ATen/ATen.h>

namespace moraine {

// a · b, both of one dtype; and into `out` of that dtype.
at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b);
void matmul_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b);
// out += scaling · a · b
void add_matmul(at::Tensor out, const at::Tensor& a, const at::Tensor& b, double scaling);

}  // namespace moraine
