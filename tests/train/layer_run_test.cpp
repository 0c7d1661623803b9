// What plans say of a layer's memory, from meta tensors, against the memory of the same layer run on the CPU: every
// golden model, each kind of layer, and the output head. A family that has a golden is held to it.
#include <ATen/Parallel.h>
#include <c10/core/Allocator.h>

#include <algorithm>
#include <set>

#include "models/image_order.h"
#include "nn/gemm_shapes.h"
#include "nn/grouped_mm.h"
#include "opened_golden.h"
#include "plan/layer_run.h"
#include "tensor/planned_tensors.h"

namespace moraine {
namespace {

std::vector<std::string> models_of_goldens() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden_folder("")))
    if (exists(entry.path() / "model" / "config.json") && exists(entry.path() / "batch.safetensors"))
      names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

ImageView on_meta(const ImageSpec& spec, ExpertRange experts) {
  const LayerImage image = lay_out_image(spec, experts, 1);
  return {image,
          at::empty({static_cast<int64_t>(image.nbytes)}, at::TensorOptions().dtype(at::kByte).device(at::kMeta))};
}

Batch on_meta(Batch batch) {
  for (at::Tensor* tensor :
       {&batch.input_ids_T, &batch.position_ids_T, &batch.targets_T, &batch.real_T, &batch.dropout_keys_T})
    if (tensor->defined()) *tensor = tensor->to(at::kMeta);
  return batch;
}

ForwardContext context_of(const Batch& batch, const ExpertParallel& experts) {
  ForwardContext context;
  context.batch = &batch;
  context.experts = &experts;
  context.balance = true;
  return context;
}

// A pass over a golden's batch on the CPU and on meta tensors, a layer at a time.
class BothRuns {
 public:
  explicit BothRuns(const std::string& name)
      : golden(name),
        batch(golden.one_batch(golden.loaded.row_alignment)),
        specs(open_checkpoint(golden.folder / "model", DtypeChoice::kAuto).specs),
        context(context_of(batch, *golden.loaded.experts)),
        hidden(embedded()) {
    batch.targets_T.clamp_min_(0);  // plans take every token to be trained
    if (name.ends_with("bf16")) batch.dropout_keys_T = batch.input_ids_T;
  }

  const Model& model() const { return *golden.loaded.model; }
  ExpertRange local() const { return golden.loaded.experts->local_experts(); }
  AdapterState adapter(int64_t layer, at::Device device) const {
    std::vector<LoraModule> modules = model().layout().lora_modules();
    std::erase_if(modules, [&](const LoraModule& module) { return module.layer != layer; });
    for (LoraModule& module : modules) module.r = 8, module.scaling = 2;
    AdapterState state(std::move(modules), local(), device);
    state.set_dropout(0.1);  // with keys for it
    return state;
  }

  LayerRun real(int64_t layer) {
    const AdapterState state = adapter(layer, at::kCPU);
    AllocationCount memory(c10::kCPU);
    measure_layer(model(), layer, image(dense_image(layer)), image(experts_image(layer)), state, context, hidden,
                  memory);  // makes what layers share
    return measure_layer(model(), layer, image(dense_image(layer)), image(experts_image(layer)), state, context, hidden,
                         memory);
  }

  LayerRun planned(int64_t layer, at::Device device = at::kCPU) {
    PlannedTensors tensors(device);
    const ExpertParallel experts(model().shape().num_experts, golden.loaded.row_alignment, group,
                                 PlannedCounts{counts(layer), {}});
    const Batch meta = on_meta(batch);
    const ForwardContext meta_context = context_of(meta, experts);
    return measure_layer(model(), layer, on_meta(specs[dense_image(layer)], local()),
                         on_meta(specs[experts_image(layer)], local()), adapter(layer, at::kMeta), meta_context,
                         hidden.to(at::kMeta), tensors.memory());
  }

  HeadRun real_head() {
    AllocationCount memory(c10::kCPU);
    return measure_head(model(), image(kRootImage), adapter(model().shape().num_hidden_layers, at::kCPU), hidden, batch,
                        memory);
  }
  HeadRun planned_head() {
    PlannedTensors tensors(at::kCPU);
    return measure_head(model(), on_meta(specs[kRootImage], local()),
                        adapter(model().shape().num_hidden_layers, at::kMeta), hidden.to(at::kMeta), on_meta(batch),
                        tensors.memory());
  }

 private:
  const ImageView& image(int number) { return golden.loaded.weights->acquire(number); }
  at::Tensor embedded() {
    at::NoGradGuard no_grad;
    return model().embed(image(kRootImage), batch);
  }
  // The rows that this layer's router sends to each expert.
  std::vector<int64_t> counts(int64_t layer) {
    at::NoGradGuard no_grad;
    LayerRecord record;
    model().forward_layer({layer, image(dense_image(layer)), image(experts_image(layer)), {}, context, record}, hidden);
    std::vector<int64_t> counts(model().shape().num_experts, 0);
    if (!record.chosen_experts_TK.defined()) return counts;  // no experts
    const at::Tensor chosen = record.chosen_experts_TK.reshape({-1});
    for (int64_t i = 0; i < chosen.numel(); ++i) ++counts.at(chosen[i].item<int64_t>());
    return counts;
  }

  Golden golden;
  Batch batch;
  std::vector<ImageSpec> specs;
  ForwardContext context;
  at::Tensor hidden;
  ProcessGroup group;
};

// What is kept is equal; the most at a time nearly is. The CPU makes fp64 copies within its sums into fp64, which meta
// tensors do not show. Where a gradient has several parts autograd adds them in place, but not those of meta tensors.
// And oneDNN holds fp32 sums of every product of bf16 on a CPU without bf16 instructions; on others it may hold less.
void expect_nearly(int64_t real, int64_t planned, double most) {
  const double ratio = static_cast<double>(real) / static_cast<double>(planned);
  EXPECT_GT(ratio, 0.75) << real;
  EXPECT_LT(ratio, most) << real;
}

TEST(AllocationCount, TensorsMayOutliveIt) {
  for (c10::DeviceType type : {c10::DeviceType::CPU, c10::DeviceType::Meta}) {
    c10::Allocator* const before = c10::GetAllocator(type);
    const auto bytes = at::TensorOptions().dtype(at::kByte).device(type);
    at::Tensor kept;
    {
      AllocationCount memory(type);
      at::empty({3000}, bytes);
      kept = at::empty({1000}, bytes);
      at::empty({1500}, bytes);
      EXPECT_EQ(memory.live(), 1000);
      EXPECT_EQ(memory.peak(), 3000);
      memory.forget_peak();
      EXPECT_EQ(memory.peak(), 1000);
      at::empty({500}, bytes);
      EXPECT_EQ(memory.peak(), 1500);
      EXPECT_EQ(memory.largest(), 500);
    }
    EXPECT_EQ(c10::GetAllocator(type), before);
    kept.fill_(1);
  }
}

TEST(LayerRun, MetaTensorsTakeWhatTensorsOnTheCpuTake) {
  at::set_num_threads(1);
  for (const std::string& name : models_of_goldens()) {
    BothRuns runs(name);
    std::set<int64_t> kinds;
    for (int64_t layer = 0; layer < runs.model().shape().num_hidden_layers; ++layer) {
      if (!kinds.insert(runs.model().layout().layer_kind(layer)).second) continue;
      SCOPED_TRACE(name + ", layer " + std::to_string(layer));
      const LayerRun real = runs.real(layer), planned = runs.planned(layer);
      EXPECT_EQ(real.output, planned.output);
      EXPECT_EQ(real.record, planned.record);
      EXPECT_EQ(real.tape, planned.tape);
      // The copies in fp64 are of factors, and layers without experts hold little besides.
      const bool has_experts = !runs.model().layout().experts_spec(layer, no_checkpoint()).params.empty();
      const double most = has_experts ? 1.025 : 1.05;
      expect_nearly(real.forward_most, planned.forward_most, most);
      expect_nearly(real.taped_forward_most, planned.taped_forward_most, most);
      expect_nearly(real.backward_most, planned.backward_most, most);
    }
    const HeadRun real = runs.real_head(), planned = runs.planned_head();
    SCOPED_TRACE(name + ", head");
    EXPECT_EQ(real.kept, planned.kept);
    expect_nearly(real.most, planned.most, 1.015);
  }
}

TEST(LayerRun, MetaTensorsStandForCuda) {
  c10::Allocator* const before = c10::GetAllocator(c10::DeviceType::Meta);
  {
    const PlannedTensors tensors(at::kCUDA);
    EXPECT_EQ(gradient_dtype(at::kMeta), at::kFloat);
    EXPECT_EQ(gemm_row_alignment(at::kMeta, at::kBFloat16), 1);
    EXPECT_TRUE(
        grouped_mm_is_faster(at::empty({8, 16}, at::TensorOptions().dtype(at::kBFloat16).device(at::kMeta)),
                             at::empty({2, 8, 16}, at::TensorOptions().dtype(at::kBFloat16).device(at::kMeta))));
  }
  EXPECT_EQ(gradient_dtype(at::kMeta), at::kDouble);
  EXPECT_EQ(c10::GetAllocator(c10::DeviceType::Meta), before);
  for (const std::string& name : models_of_goldens()) {
    BothRuns runs(name);
    const int64_t last = runs.model().shape().num_hidden_layers - 1;
    SCOPED_TRACE(name);
    EXPECT_EQ(runs.planned(last, at::kCUDA).record, runs.planned(last).record);
  }
}

}  // namespace
}  // namespace moraine
