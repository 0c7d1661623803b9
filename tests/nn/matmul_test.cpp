// A row's product has the same bits whatever rows share it.
#include "nn/matmul.h"

#include <gtest/gtest.h>

#include "nn/gemm_shapes.h"

namespace moraine {
namespace {

// Rows whose large parts cancel, so that what is left shows in which order the sum was taken.
at::Tensor cancelling_rows(int64_t rows, int64_t summands) {
  at::Tensor x = at::randn({rows, summands}) * at::exp2(at::randint(-6, 10, {rows, summands}).to(at::kFloat));
  x.narrow(1, summands / 2, summands / 2) = x.narrow(1, 0, summands / 2) + at::randn({rows, summands / 2}) * 0.01;
  return x.to(at::kBFloat16);
}

TEST(MatrixProduct, InBf16ARowDoesNotShowWhatOthersShareIt) {
  constexpr int64_t kRows = 512;
  const int64_t few = gemm_row_alignment(at::kCPU, at::kBFloat16);
  // On both sides of the size from which libtorch leaves a product to oneDNN: 16 rows x 256, 32 rows x 128, …
  for (const auto& [summands, columns] :
       {std::pair<int64_t, int64_t>{64, 4}, {4, 64}, {32, 4}, {16, 16}, {8, 2}, {64, 5}, {128, 96}}) {
    const at::Tensor x = cancelling_rows(kRows, summands);
    at::Tensor w = at::randn({columns, summands});
    w.narrow(1, summands / 2, summands / 2) = -w.narrow(1, 0, summands / 2);
    w = w.to(at::kBFloat16);
    const at::Tensor all = matrix_product(x, w.t()), start = at::randn({kRows, columns}).to(at::kBFloat16);
    at::Tensor into = at::empty_like(all), added = start.clone();
    matmul_into(into, x, w.t());
    add_matmul(added, x, w.t(), 2.0);
    for (int64_t row = 0; row < kRows; row += few) {
      const at::Tensor part = x.narrow(0, row, few);
      at::Tensor part_into = at::empty({few, columns}, at::kBFloat16), part_added = start.narrow(0, row, few).clone();
      matmul_into(part_into, part, w.t());
      add_matmul(part_added, part, w.t(), 2.0);
      ASSERT_TRUE(all.narrow(0, row, few).equal(matrix_product(part, w.t())))
          << summands << " x " << columns << ", row " << row;
      ASSERT_TRUE(into.narrow(0, row, few).equal(part_into)) << summands << " x " << columns << ", row " << row;
      ASSERT_TRUE(added.narrow(0, row, few).equal(part_added)) << summands << " x " << columns << ", row " << row;
    }
  }
}

}  // namespace
}  // namespace moraine
