// Products of rows with frozen matrices beside the same in fp64.
#include "nn/row_products.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace moraine {
namespace {

// x · w + scaling · low · up as fp64 has it, low rounded as the kernels round it.
struct Case {
  int64_t rows, summands, columns, rank;
};

at::Tensor matrix(int64_t rows, int64_t columns, at::ScalarType dtype) {
  return (at::randn({rows, columns}) / std::sqrt(static_cast<double>(std::max<int64_t>(1, columns)))).to(dtype);
}

void check(const Case& c, ProductPass pass, at::ScalarType dtype, at::ScalarType factor_dtype) {
  const bool forward = pass == ProductPass::kForward;
  const auto shaped = [&](int64_t summands, int64_t columns, at::ScalarType type) {
    return forward ? matrix(columns, summands, type) : matrix(summands, columns, type);
  };
  const auto facing = [&](const at::Tensor& m) { return (forward ? m.t() : m).to(at::kDouble); };
  const at::Tensor x = at::randn({c.rows, c.summands}).to(dtype), w = shaped(c.summands, c.columns, dtype);
  const at::Tensor down = shaped(c.summands, c.rank, factor_dtype), up = shaped(c.rank, c.columns, factor_dtype);
  const at::Tensor out = at::empty({c.rows, c.columns}, x.options());
  const at::Tensor low = at::empty({c.rows, c.rank}, x.options().dtype(factor_dtype));
  const int64_t half = c.rows / 2;
  row_products(out, x, {{0, half, w, down, up}, {half, c.rows - half, w, down, up}}, pass, 2.0, low);

  const at::Tensor x64 = x.to(at::kDouble), exact_low = x64.matmul(facing(down));
  const at::Tensor first = x64.matmul(facing(w)),
                   exact = first.to(dtype).to(at::kDouble) + 2.0 * low.to(at::kDouble).matmul(facing(up));
  // The error of a sum of such summands in fp32, and of its rounding: `rounded` is what was rounded, all in all.
  const auto is_near = [](const at::Tensor& found, const at::Tensor& wanted, const at::Tensor& summed,
                          const at::Tensor& rounded) {
    const double unit = found.scalar_type() == at::kFloat ? 1.2e-7 : 1.0 / 256;
    return (found.to(at::kDouble) - wanted).abs().le(rounded * unit + summed * 1e-6).all().item<bool>();
  };
  const at::Tensor size = x64.abs().matmul(facing(w).abs()) + 2.0 * low.to(at::kDouble).abs().matmul(facing(up).abs());
  EXPECT_TRUE(is_near(low, exact_low, x64.abs().matmul(facing(down).abs()), exact_low.abs()))
      << c.rows << " " << c.summands << " " << c.rank;
  // The first term's sum in fp64 may be rounded to the next number.
  EXPECT_TRUE(is_near(out, exact, size, exact.abs() + 2 * first.abs()))
      << c.rows << " " << c.summands << " " << c.columns;

  // So it has with a matrix whose columns lie one after another.
  const at::Tensor turned = at::empty_like(out), turned_low = at::empty_like(low);
  row_products(turned, x, {{0, c.rows, w.t().contiguous().t(), down, up}}, pass, 2.0, turned_low);
  EXPECT_TRUE(at::equal(turned, out)) << c.rows << " " << c.summands << " " << c.columns;

  // A row alone has the same bits.
  const at::Tensor one_out = at::empty({1, c.columns}, x.options()), one_low = at::empty({1, c.rank}, low.options());
  row_products(one_out, x.narrow(0, c.rows - 1, 1).contiguous(), {{0, 1, w, down, up}}, pass, 2.0, one_low);
  EXPECT_TRUE(at::equal(one_out[0], out[c.rows - 1])) << c.rows << " " << c.summands << " " << c.columns;
}

TEST(RowProducts, EqualFp64AndARowDoesNotShowOthers) {
  at::manual_seed(1);
  const std::vector<Case> cases = {{2, 1, 1, 1},      {5, 7, 9, 3},     {7, 16, 33, 8},    {13, 17, 64, 16},
                                   {64, 48, 40, 8},   {31, 64, 8, 4},   {12, 130, 96, 20}, {250, 24, 50, 8},
                                   {24, 1030, 70, 9}, {3, 2100, 31, 40}};
  for (const Case& c : cases)
    for (const ProductPass pass : {ProductPass::kForward, ProductPass::kBackward})
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
        for (const at::ScalarType factors : {at::kFloat, dtype}) check(c, pass, dtype, factors);
}

}  // namespace
}  // namespace moraine
