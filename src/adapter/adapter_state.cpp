#include "adapter/adapter_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "adapter/target_selection.h"
#include "base/error.h"
#include "base/random.h"
#include "nn/dropout.h"

namespace moraine {

AdapterLayout lay_out_adapter(std::vector<LoraModule> modules, ExpertRange experts) {
  constexpr double kMost = 0x1p50;  // elements; far below where int64 ends
  AdapterLayout layout;
  double elements = 0;
  for (LoraModule& module : modules) {
    const bool is_experts = module.num_experts > 0;
    int64_t& size = is_experts ? layout.expert_size : layout.dense_size;
    const int64_t copies = is_experts ? experts.count : 1, r = module.r;
    elements += static_cast<double>(copies) * static_cast<double>(r) *
                static_cast<double>(module.in_features + module.out_features);
    if (elements > kMost)
      throw input_error("adapter.r", fmt::format("{} makes an adapter of more than {} parameters", r, kMost),
                        "lower it");
    AdapterEntry entry{std::move(module), size, 0};
    entry.b_offset = entry.a_offset + copies * r * entry.module.in_features;
    size = entry.b_offset + copies * r * entry.module.out_features;
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
    at::Tensor values = at::empty_like(a(entry), at::TensorOptions().device(at::kCPU)).contiguous();
    float* p = values.mutable_data_ptr<float>();
    const int64_t elements = entry.module.r * entry.module.in_features;
    const int64_t first = entry.module.num_experts > 0 ? expert_range_.first : 0;
    const double bound = 1.0 / std::sqrt(static_cast<double>(entry.module.in_features));
    const CounterRandom random(seed, entry.module.name + ".lora_A");
    for (int64_t i = 0; i < values.numel(); ++i) {
      p[i] = static_cast<float>((2.0 * random.uniform(first * elements + i) - 1.0) * bound);
    }
    a(entry).copy_(values);
    b(entry).zero_();
  }
}

at::Tensor AdapterState::view(const AdapterEntry& entry, int64_t offset, Factor factor, bool grad) const {
  const bool is_experts = entry.module.num_experts > 0;
  const AdapterSection& section = is_experts ? experts_ : dense_;
  const LoraModule& m = entry.module;
  std::vector<int64_t> shape =
      factor == Factor::kA ? std::vector<int64_t>{m.r, m.in_features} : std::vector<int64_t>{m.out_features, m.r};
  if (is_experts) shape.insert(shape.begin(), expert_range_.count);
  return (grad ? section.grads : section.values).narrow(0, offset, num_elements(shape)).view(shape);
}

void AdapterState::zero_grads() {
  dense_.grads.zero_();
  experts_.grads.zero_();
}

LayerAdapter AdapterState::layer_adapter(int64_t layer, Gradients gradients, const at::Tensor& dropout_keys_T) const {
  LayerAdapter adapter;
  for (const AdapterEntry& entry : entries_) {
    const LoraModule& m = entry.module;
    if (m.layer != layer) continue;
    const bool add = gradients == Gradients::kAdd;
    LoraPair pair{a(entry), b(entry), m.scaling, add ? a_grad(entry) : at::Tensor(),
                  add ? b_grad(entry) : at::Tensor()};
    if (dropout_ > 0 && dropout_keys_T.defined()) pair.dropout = {dropout_, dropout_layer_key(m.name), dropout_keys_T};
    adapter.pairs.emplace(m.local_name, std::move(pair));
  }
  return adapter;
}

}  // namespace moraine
