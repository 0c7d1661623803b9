// What is counted of operators on meta tensors, and of a whole layer against numbers worked out by hand.
#include "plan/operator_count.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "plan/pass_run.h"
#include "planned_model.h"
#include "tensor/planned_tensors.h"

namespace moraine {
namespace {

at::Tensor on_meta(at::IntArrayRef sizes, at::ScalarType dtype = at::kBFloat16) {
  return at::empty(sizes, at::TensorOptions().dtype(dtype).device(at::kMeta));
}

template <typename Run>
DeviceWork work_of(const Run& run) {
  at::NoGradGuard no_grad;
  const PlannedTensors tensors(at::kCUDA);
  OperatorCount operators;
  run();
  return operators.take();
}

TEST(OperatorCount, ProductsByTheirArithmeticAndTheirTensors) {
  const at::Tensor a = on_meta({3, 4}), b = on_meta({4, 5});
  const DeviceWork work = work_of([&] { at::mm(a, b); });
  EXPECT_EQ(work.launches(), 1);
  EXPECT_EQ(work.flops(), 2 * 3 * 4 * 5);
  EXPECT_EQ(work.bytes(), 2 * (12 + 20 + 15));
  EXPECT_EQ(work.operations.begin()->first.product, Product::kHalf);
  const DeviceWork in_fp32 = work_of([&] { at::linear(a.to(at::kFloat), on_meta({5, 4}, at::kFloat)); });
  EXPECT_EQ(in_fp32.launches(), 2);  // the conversion and the product
  EXPECT_EQ(in_fp32.flops(), 2 * 3 * 4 * 5);
}

TEST(OperatorCount, ViewsAndNewMemoryAreNoKernels) {
  const at::Tensor x = on_meta({4, 6});
  const DeviceWork work = work_of([&] {
    x.view({24}).narrow(0, 2, 4);
    x.t().to(at::kBFloat16).detach();
    at::empty_like(x).resize_({2});
  });
  EXPECT_EQ(work.launches(), 0);
}

TEST(OperatorCount, OfMemoryWhatIsReadAndWritten) {
  const at::Tensor x = on_meta({100, 8}), y = on_meta({100, 8});
  const at::Tensor rows = on_meta({3}, at::kLong);
  EXPECT_EQ(work_of([&] { x.add_(y); }).bytes(), 3 * 1600);
  EXPECT_EQ(work_of([&] { x.copy_(y); }).bytes(), 2 * 1600);
  EXPECT_EQ(work_of([&] { at::add(x, on_meta({8}).expand({100, 8})); }).bytes(), 2 * 1600 + 16);
  EXPECT_EQ(work_of([&] { x.index_select(0, rows); }).bytes(), 24 + 2 * 3 * 16);
}

TEST(OperatorCount, ALayerOfQwen3HasTheProductsOfItsFormula) {
  const PlannedQwen3 planned;
  PlannedRun run = planned.run(1, {"dist.device=cuda", "data.max_length=1024"});
  const LayerRun& layer = run_pass(planned.model, plan_pass(planned.model, run, 0)).layers.front();
  // Hidden 2048, 32 heads and 4 key-value heads of 128, 128 experts of width 768, 8 for each token; LoRA r 8.
  const double T = 1024, D = 2048, heads = 32 * 128, kv = 4 * 128, width = 768, chosen = 8, r = 8;
  const double attention = 4 * T * T * heads / 2;
  const double linear = 2 * T * (D * heads + 2 * D * kv + heads * D);
  const double router = 2 * T * D * 128;
  const double experts = 2 * T * chosen * (D * 2 * width + width * D);
  const double lora = 2 * T * r * ((D + heads) + 2 * (D + kv) + (heads + D)),
               expert_lora = 2 * T * chosen * r * ((D + 2 * width) + (width + D));
  EXPECT_DOUBLE_EQ(layer.forward_work.flops(), attention + linear + router + experts + lora + expert_lora);
  EXPECT_DOUBLE_EQ(layer.again_work.flops(), layer.forward_work.flops());
  // No gradients of frozen weights; of the factors each product twice, for the input and for the factor.
  EXPECT_DOUBLE_EQ(layer.backward_work.flops(),
                   2.5 * attention + linear + router + experts + 2 * lora + 2 * expert_lora);
}

}  // namespace
}  // namespace moraine
