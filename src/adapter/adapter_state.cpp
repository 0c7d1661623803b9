#include "adapter/adapter_state.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "adapter/target_selection.h"
#include "base/error.h"
#include "base/random.h"
#include "nn/dropout.h"

namespace moraine {
namespace {

constexpr int64_t kDrawnAtOnce = int64_t{1} << 15;  // elements, by one thread

}  // namespace

AdapterLayout lay_out_adapter(std::vector<LoraModule> modules, ExpertRange experts) {
  constexpr double kMost = 0x1p50;  // elements; far below where int64 ends
  AdapterLayout layout;
  double elements = 0;
  for (LoraModule& module : modules) {
    const int64_t r = module.r;
    elements += static_cast<double>(std::max<int64_t>(module.num_experts > 0 ? experts.count : 0, 1)) *
                static_cast<double>(r) * static_cast<double>(module.in_features + module.out_features);
    if (elements > kMost)
      throw input_error("adapter.r", fmt::format("{} makes an adapter of more than {} parameters", r, kMost),
                        "lower it");
    AdapterEntry entry{std::move(module), 0, 0};
    const auto place = [&](bool of_expert, int64_t factor_elements) {
      int64_t& size = of_expert ? layout.expert_size : layout.dense_size;
      return std::exchange(size, size + (of_expert ? experts.count : 1) * factor_elements);
    };
    entry.a_offset = place(entry.module.has_expert_a(), r * entry.module.in_features);
    entry.b_offset = place(entry.module.has_expert_b(), r * entry.module.out_features);
    layout.entries.push_back(std::move(entry));
  }
  return layout;
}

AdapterState::AdapterState(std::vector<LoraModule> modules, ExpertRange experts, at::Device device)
    : expert_range_(experts) {
  AdapterLayout layout = lay_out_adapter(std::move(modules), experts);
  entries_ = std::move(layout.entries);
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  for (auto [section, size] : {std::pair{&dense_, layout.dense_size}, std::pair{&experts_, layout.expert_size}}) {
    section->values = at::zeros({size}, options);
    section->grads = at::zeros({size}, options.dtype(gradient_dtype(device)));
    section->owned_size = size;
  }
}

void AdapterState::shard_experts(SectionShard shard) {
  const int64_t part = section_part_size(experts_.values.numel(), shard.count);
  const int64_t padding = part * shard.count - experts_.values.numel();
  experts_.values = at::constant_pad_nd(experts_.values, {0, padding});
  experts_.grads = at::constant_pad_nd(experts_.grads, {0, padding});
  experts_.owned_begin = part * shard.index;
  experts_.owned_size = part;
}

int64_t AdapterState::num_parameters() const {
  int64_t sum = 0;
  for (const AdapterEntry& entry : entries_) sum += lora_parameters(entry.module);
  return sum;
}

void AdapterState::initialize(uint64_t seed) {
  for (const AdapterEntry& entry : entries_) {
    const LoraModule& m = entry.module;
    const at::Tensor random_factor = m.is_embedding() ? b(entry) : a(entry);
    const at::Tensor values = random_factor.is_cpu()
                                  ? random_factor
                                  : at::empty(random_factor.sizes(), random_factor.options().device(at::kCPU));
    float* p = values.mutable_data_ptr<float>();
    const CounterRandom random(seed, m.name + (m.is_embedding() ? ".lora_B" : ".lora_A"));
    const double bound = 1.0 / std::sqrt(static_cast<double>(m.in_features));
    const int64_t first = m.has_expert_a() ? expert_range_.first * m.r * m.in_features : 0;
    const auto draw = [&](const auto& element) {
      at::parallel_for(0, values.numel(), kDrawnAtOnce, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) p[i] = static_cast<float>(element(i));
      });
    };
    if (m.is_embedding()) {
      draw([&](int64_t i) { return random.normal(i); });
    } else {
      draw([&](int64_t i) { return (2.0 * random.uniform(first + i) - 1.0) * bound; });
    }
    if (!values.is_same(random_factor)) random_factor.copy_(values);
    (m.is_embedding() ? a(entry) : b(entry)).zero_();
  }
}

at::Tensor AdapterState::view(const AdapterEntry& entry, int64_t offset, Factor factor, bool grad) const {
  const LoraModule& m = entry.module;
  const bool of_expert = factor == Factor::kA ? m.has_expert_a() : m.has_expert_b();
  const AdapterSection& section = of_expert ? experts_ : dense_;
  std::vector<int64_t> shape =
      factor == Factor::kA ? std::vector<int64_t>{m.r, m.in_features} : std::vector<int64_t>{m.out_features, m.r};
  if (m.num_experts > 0) shape.insert(shape.begin(), of_expert ? expert_range_.count : 1);
  return (grad ? section.grads : section.values).narrow(0, offset, num_elements(shape)).view(shape);
}

void AdapterState::zero_grads() {
  dense_.grads.zero_();
  experts_.grads.zero_();
}

LoraPair AdapterState::pair_of(const AdapterEntry& entry, Gradients gradients, const at::Tensor& dropout_keys_T) const {
  const bool add = gradients == Gradients::kAdd;
  LoraPair pair{a(entry), b(entry), entry.module.scaling, add ? a_grad(entry) : at::Tensor(),
                add ? b_grad(entry) : at::Tensor()};
  if (dropout_ > 0 && dropout_keys_T.defined())
    pair.dropout = {dropout_, dropout_layer_key(entry.module.name), dropout_keys_T};
  return pair;
}

LayerAdapter AdapterState::layer_adapter(int64_t layer, Gradients gradients, const at::Tensor& dropout_keys_T) const {
  LayerAdapter adapter;
  for (const AdapterEntry& entry : entries_)
    if (entry.module.layer == layer)
      adapter.pairs.emplace(entry.module.local_name, pair_of(entry, gradients, dropout_keys_T));
  return adapter;
}

LayerAdapter AdapterState::outer_adapter(Gradients gradients, const at::Tensor& dropout_keys_T) const {
  LayerAdapter adapter;
  for (const AdapterEntry& entry : entries_)
    if (!entry.module.in_layer())
      adapter.pairs.emplace(entry.module.local_name, pair_of(entry, gradients, dropout_keys_T));
  return adapter;
}

}  // namespace moraine
