// Sums of outer products: how the gradient of a low-rank factor comes from activations.
#pragma once

#include <ATen/ATen.h>

namespace moraine {

// sum_PQ += scaling · left_RPᵀ · right_RQ, added up in the dtype of the sum (fp64 or fp32, contiguous). left and right
// are fp32 or bf16, contiguous; one of P and Q is small, a rank. BLAS libraries are slow at such shapes, and would need
// copies in fp64: on the CPU into an fp64 sum this takes a pass of its own over the activations, converting them on the
// way.
void add_outer_products(at::Tensor sum_PQ, const at::Tensor& left_RP, const at::Tensor& right_RQ, double scaling);

}  // namespace moraine
