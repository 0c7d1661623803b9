// DeepSeek-V3's FP8 release: factors of blocks of 128 × 128 that its matrices are no multiples of.
#include <gmock/gmock.h>

#include "checkpoint/check_checkpoint.h"
#include "models/golden_headers.h"
#include "models/param_specs.h"
#include "nn/quantized_weight.h"

namespace moraine {
namespace {

using namespace testing_support;

// kv_a_proj_with_mqa has 576 rows, four blocks and a half.
TEST(DeepseekV3Fp8, TheLastBlockOfRowsIsCutOff) {
  const auto layout = make_layout(hub_config("DeepSeek-V3"));
  const std::vector<ImageSpec> specs = image_specs(*layout, no_checkpoint());
  const std::string module = "model.layers.60.self_attn.kv_a_proj_with_mqa.weight";
  const ParamSpec codes = find_param(specs, module), scales = find_param(specs, module + "_scale");
  EXPECT_THAT(codes.shape, testing::ElementsAre(576, 7168));
  EXPECT_EQ(codes.dtype, DType::kF8E4M3);
  EXPECT_THAT(scales.shape, testing::ElementsAre(5, 56));
  EXPECT_EQ(scales.dtype, DType::kF32);
  EXPECT_FALSE(find_param(specs, "model.layers.60.mlp.gate.weight").quant);
  EXPECT_EQ(find_param(specs, "model.layers.60.mlp.gate.e_score_correction_bias").dtype, DType::kF32);
}

TEST(DeepseekV3Fp8, RowsOfTheCutOffBlockHaveItsFactor) {
  const at::Tensor codes = at::randint(0, 100, {576, 200}, at::kByte).view(at::kFloat8_e4m3fn);
  const at::Tensor scales = at::rand({5, 2}) + 0.5;
  const FrozenWeight weight(codes, scales, {DType::kF8E4M3, DType::kF32, 128, 128});
  const at::Tensor found = dequantize(weight, at::kFloat);
  for (const auto& [row, column] : std::vector<std::pair<int64_t, int64_t>>{{0, 0}, {511, 127}, {512, 128}, {575, 199}})
    EXPECT_EQ(found[row][column].item<float>(),
              codes.to(at::kFloat)[row][column].item<float>() * scales[row / 128][column / 128].item<float>())
        << row << " " << column;
}

}  // namespace
}  // namespace moraine
