// Products of activations' rows with frozen matrices by this program's own kernels (kernels/matmul.h), the product of
// two low-rank factors beside each: forwards y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ, backwards dx = dy·W + s·(dy·B)·A.
#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace moraine {

// Whether activations of this device and dtype are multiplied so: on the CPU those in fp32 and, with AVX-512, those in
// bf16, unless the processor has instructions for products of bf16, which oneDNN uses. With AVX2 bf16 is left to MKL,
// in fp32: there these kernels were never measured.
bool own_kernels_multiply(at::Device device, at::ScalarType dtype);

// How matrices lie: forwards [columns, summands], backwards [summands, columns].
enum class ProductPass { kForward, kBackward };

// Rows first_row .. first_row + num_rows of the activations and what they are multiplied with; fp32 or bf16.
struct RowGroup {
  int64_t first_row = 0, num_rows = 0;
  at::Tensor weight;    // its rows or its columns lie one after another
  at::Tensor down, up;  // undefined: no factors. Forwards A [R, I] and B [O, R], backwards B [O, R] and A [R, I]
};

// out_RN[rows] = x_RK[rows] · weight + scaling · low[rows] · up, where low_RL[rows] = x_RK[rows] · down, rounded to its
// dtype. Both terms are summed in fp32; the first is rounded to out's dtype before the second is added, as it is in
// PEFT. x, out and low are contiguous, fp32 or bf16; low is undefined without factors. A row's bits do not depend on
// what other rows there are.
void row_products(const at::Tensor& out_RN, const at::Tensor& x_RK, const std::vector<RowGroup>& groups,
                  ProductPass pass, double scaling = 1.0, const at::Tensor& low_RL = {});

}  // namespace moraine
