// Quantised weights in linear layers, and SwiGLU's limit.
#include "nn/quantized_weight.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "device/test_device.h"
#include "nn/grouped_linear.h"
#include "nn/swiglu.h"
#include "tensor/planned_tensors.h"

namespace moraine {
namespace {

using testing_support::to_test_device;

at::Tensor random_fp32(std::vector<int64_t> shape) {
  return to_test_device(at::randn(shape, at::kDouble).to(at::kFloat));
}

// Scales of powers of two, as E8M0.
at::Tensor random_scales(std::vector<int64_t> shape) {
  return to_test_device(at::randint(120, 132, shape, at::kByte)).view(at::kFloat8_e8m0fnu);
}
FrozenWeight random_fp4(std::vector<int64_t> shape, int64_t block) {
  std::vector<int64_t> codes = shape, scales = shape;
  codes.back() /= 2;
  scales.back() /= block;
  return {to_test_device(at::randint(0, 256, codes, at::kByte)).view(at::kChar),
          random_scales(scales),
          {DType::kI8, DType::kF8E8M0, 1, block}};
}
FrozenWeight random_fp8(std::vector<int64_t> shape, int64_t block_rows, int64_t block_columns) {
  std::vector<int64_t> scales = shape;
  scales[shape.size() - 2] /= block_rows;
  scales.back() /= block_columns;
  return {random_fp32(shape).to(at::kFloat8_e4m3fn),
          random_scales(scales),
          {DType::kF8E4M3, DType::kF8E8M0, block_rows, block_columns}};
}

void expect_equal(const at::Tensor& a, const at::Tensor& b) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_TRUE(at::equal(a, b));
}

TEST(QuantizedWeight, EveryFp4CodeInBothHalvesOfAByte) {
  std::vector<int64_t> bytes(256);
  for (int64_t byte = 0; byte < 256; ++byte) bytes[byte] = byte;
  const at::Tensor codes = to_test_device(at::tensor(bytes).to(at::kByte).view({8, 32}));
  const FrozenWeight weight(codes.view(at::kChar),
                            to_test_device(at::full({8, 2}, 128, at::kByte)).view(at::kFloat8_e8m0fnu),  // 2^1
                            QuantFormat::fp4(DType::kF8E8M0));
  const at::Tensor values = dequantize(weight, at::kFloat).cpu();
  const double table[] = {0, .5, 1, 1.5, 2, 3, 4, 6, 0, -.5, -1, -1.5, -2, -3, -4, -6};
  for (int64_t byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(values[byte / 32][byte % 32 * 2].item<double>(), 2 * table[byte % 16]);
    EXPECT_EQ(values[byte / 32][byte % 32 * 2 + 1].item<double>(), 2 * table[byte / 16]);
  }
}

TEST(QuantizedWeight, TheKernelEqualsTensorOperations) {
  for (const FrozenWeight& weight :
       {random_fp4({3, 6, 64}, 32), random_fp8({3, 8, 24}, 4, 8), random_fp8({8, 24}, 8, 24)}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
      expect_equal(dequantize(weight, dtype), dequantize_by_tensor_ops(weight, dtype));
  }
  // Scales of the older release.
  const FrozenWeight e8m0 = random_fp8({8, 24}, 4, 8),
                     fp32(e8m0.values, e8m0.scale.to(at::kFloat), {DType::kF8E4M3, DType::kF32, 4, 8});
  expect_equal(dequantize(fp32, at::kFloat), dequantize(e8m0, at::kFloat));
}

// More than tensor operations take at a time, by rows of one matrix and by matrices. Fp16 has no kernel of the CPU's.
TEST(QuantizedWeight, LargeOnesAreDequantisedInParts) {
  constexpr int64_t kRows = 4224, kColumns = 4096;
  const FrozenWeight one(at::randint(0, 100, {kRows, kColumns}, at::kByte).view(at::kFloat8_e4m3fn),
                         at::randint(120, 132, {kRows / 128, kColumns / 128}, at::kByte).view(at::kFloat8_e8m0fnu),
                         {DType::kF8E4M3, DType::kF8E8M0, 128, 128});
  FrozenWeight two = one;  // the same rows as two matrices whose last blocks are cut off
  two.matrices = 2;
  two.scale = at::randint(120, 132, {2 * 17, kColumns / 128}, at::kByte).view(at::kFloat8_e8m0fnu);
  for (const FrozenWeight& w : {one, two})
    EXPECT_TRUE(at::equal(dequantize(w, at::kHalf), dequantize(w, at::kFloat).to(at::kHalf)));
}

TEST(QuantizedWeight, DequantisingOnAGpuTakesBoundedMemoryBesideItsResult) {
  PlannedTensors planned(c10::kCUDA);
  const auto on_meta = [](std::vector<int64_t> shape, at::ScalarType dtype) {
    return at::empty(shape, at::TensorOptions().dtype(dtype).device(at::kMeta));
  };
  const QuantFormat fp8{DType::kF8E4M3, DType::kF8E8M0, 128, 128};
  for (const FrozenWeight& w :
       {FrozenWeight(on_meta({16, 4096, 1024}, at::kChar), on_meta({16, 4096, 64}, at::kFloat8_e8m0fnu),
                     {DType::kI8, DType::kF8E8M0, 1, 32}),
        FrozenWeight(on_meta({16384, 8192}, at::kFloat8_e4m3fn), on_meta({128, 64}, at::kFloat8_e8m0fnu), fp8),
        FrozenWeight(on_meta({16384, 8192}, at::kFloat8_e4m3fn), on_meta({128, 64}, at::kFloat8_e8m0fnu), fp8, 2)}) {
    std::vector<int64_t> shape = w.values.sizes().vec();
    shape.back() = w.in_features();
    const at::Tensor out = on_meta(shape, at::kBFloat16);
    planned.memory().forget_peak();
    const int64_t before = planned.memory().live();
    dequantize_into(out, w);
    EXPECT_LT(planned.memory().peak() - before, int64_t{256} << 20);
  }
}

TEST(QuantizedWeight, RowsSplitIntoGroupsWhateverTheBlocks) {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{4, 8}, {16, 8}, {8, 24}}) {
    const FrozenWeight weight = random_fp8({16, 24}, rows, columns);
    expect_equal(dequantize(weight.split_rows(4), at::kFloat), dequantize(weight, at::kFloat).view({4, 4, 24}));
  }
}

// FP8 with blocks that do not divide the matrices evenly, and scales that are no powers of two.
FrozenWeight random_cut(int64_t experts, int64_t matrices, int64_t rows, int64_t columns, int64_t block_rows,
                        int64_t block_columns) {
  const auto blocks = [](int64_t length, int64_t block) { return (length + block - 1) / block; };
  return {random_fp32({experts, matrices * rows, columns}).to(at::kFloat8_e4m3fn),
          random_fp32({experts, matrices * blocks(rows, block_rows), blocks(columns, block_columns)}).abs() + 0.1,
          {DType::kF8E4M3, DType::kF32, block_rows, block_columns},
          matrices};
}

TEST(QuantizedWeight, BlocksAreCutOffAtTheEndOfEachMatrix) {
  // One block longer than a side too.
  for (const auto& [matrices, rows, columns] :
       {std::array<int64_t, 3>{2, 10, 26}, {1, 10, 24}, {3, 8, 26}, {2, 3, 5}}) {
    const FrozenWeight weight = random_cut(3, matrices, rows, columns, 4, 8);
    at::Tensor expected = to_test_device(at::empty({3, matrices * rows, columns}));
    const int64_t scale_rows = (rows + 3) / 4;
    for (int64_t e = 0; e < 3; ++e)
      for (int64_t row = 0; row < matrices * rows; ++row)
        for (int64_t column = 0; column < columns; ++column)
          expected[e][row][column] = weight.values[e][row][column].to(at::kFloat) *
                                     weight.scale[e][row / rows * scale_rows + row % rows / 4][column / 8];
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      expect_equal(dequantize(weight, dtype), expected.to(dtype));
      expect_equal(dequantize_by_tensor_ops(weight, dtype), expected.to(dtype));
      expect_equal(dequantize(weight.of_expert(1), dtype), expected[1].to(dtype));
      expect_equal(dequantize(weight.of_expert(2).split_rows(1), dtype), expected[2].unsqueeze(0).to(dtype));
    }
  }
}

// Outputs and gradients are those of the dequantised weight, bit for bit.
TEST(QuantizedWeight, GroupedLinearDequantisesWhenItMultiplies) {
  const std::vector<int64_t> rows{3, 0, 5};
  for (const FrozenWeight& weight :
       {random_fp4({3, 6, 64}, 32), random_fp8({3, 6, 64}, 3, 32), random_cut(3, 2, 3, 64, 2, 48)}) {
    const FrozenWeight plain(dequantize(weight, at::kFloat));
    at::Tensor x = random_fp32({8, 64}).requires_grad_(), g = random_fp32({8, 6});
    LoraPair lora{random_fp32({3, 2, 64}), random_fp32({3, 6, 2}), 1.5, {}, {}};
    const auto run = [&](const FrozenWeight& w) {
      lora.a_grad = at::zeros_like(lora.a, gradient_dtype(lora.a.device()));
      lora.b_grad = at::zeros_like(lora.b, gradient_dtype(lora.b.device()));
      at::Tensor y = grouped_linear(x, w, rows, &lora);
      return std::vector<at::Tensor>{torch::autograd::grad({y}, {x}, {g})[0], lora.a_grad, lora.b_grad, y.detach()};
    };
    const auto got = run(weight), wanted = run(plain);
    for (size_t i = 0; i < got.size(); ++i) expect_equal(got[i], wanted[i]);
  }
}

TEST(SwiGlu, ClampsAtItsLimitAndPassesNoGradientBeyond) {
  at::Tensor x = (random_fp32({7, 24}) * 3).requires_grad_(), g = random_fp32({7, 12});
  at::Tensor expected = at::silu(x.narrow(1, 0, 12).clamp_max(1.5)) * x.narrow(1, 12, 12).clamp(-1.5, 1.5);
  at::Tensor y = swiglu(x, 1.5);
  EXPECT_LT((y - expected).abs().max().item<double>(), 1e-6);
  const at::Tensor got = torch::autograd::grad({y}, {x}, {g})[0],
                   wanted = torch::autograd::grad({expected}, {x}, {g})[0];
  EXPECT_LT((got - wanted).abs().max().item<double>(), 1e-5);
}

}  // namespace
}  // namespace moraine
