#include "adapter/shared_outer.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace moraine {
namespace {

constexpr const char* kMark = "adapter.experts";  // of the metadata; its value is a recipe's

constexpr std::string_view kExperts = ".experts.";

bool is_stacked_name(const std::string& module) {
  constexpr std::array<const char*, 3> kNames{"w1", "w2", "w3"};
  return std::any_of(kNames.begin(), kNames.end(),
                     [&](const char* name) { return module.ends_with(std::string(kExperts) + name); });
}

// Of a view [E, O, R] that lies as [O, R, E] in memory, as B does in PEFT's layout: whether all experts have the same.
bool repeats_each(const at::Tensor& b_EOR) {
  const int64_t num_experts = b_EOR.size(0), of_expert = b_EOR.size(1) * b_EOR.size(2);
  const float* value = b_EOR.const_data_ptr<float>();
  for (int64_t i = 0; i < of_expert; ++i, value += num_experts) {
    bool differs = false;
    for (int64_t e = 0; e < num_experts; ++e) differs |= value[e] != value[0];
    if (differs) return false;
  }
  return true;
}

}  // namespace

void set_expert_factors(std::vector<LoraModule>& modules, ExpertFactors experts) {
  for (LoraModule& module : modules) {
    const bool shares = experts == ExpertFactors::kSharedOuter && module.num_experts > 0,
               is_down = module.local_name.ends_with(".down_proj");
    module.shared_a = shares && !is_down;
    module.shared_b = shares && is_down;
  }
}

ExpertFactors expert_factors_of(const std::vector<LoraModule>& modules) {
  const bool shares =
      std::any_of(modules.begin(), modules.end(), [](const LoraModule& m) { return m.shared_a || m.shared_b; });
  return shares ? ExpertFactors::kSharedOuter : ExpertFactors::kEach;
}

std::map<std::string, std::string> adapter_metadata(ExpertFactors experts) {
  std::map<std::string, std::string> metadata{{"format", "pt"}};
  if (experts != ExpertFactors::kEach) metadata[kMark] = word_of(experts);
  return metadata;
}

ExpertFactors expert_factors_of(const SafetensorsHeader& weights) {
  const auto mark = weights.metadata.find(kMark);
  const bool is_marked = mark != weights.metadata.end() && mark->second == word_of(ExpertFactors::kSharedOuter);
  return is_marked || has_stacked_experts(weights) ? ExpertFactors::kSharedOuter : ExpertFactors::kEach;
}

at::Tensor the_shared_one(const at::Tensor& factor, const std::string& file, const std::string& tensor) {
  const at::Tensor first = factor.narrow(0, 0, 1);
  const bool is_same = is_rank_major(factor) ? repeats_each(factor) : at::equal(factor, first.expand_as(factor));
  if (!is_same)
    throw input_error(file, "tensor " + tensor + " is not the same for all experts",
                      "the adapter was not trained with adapter.experts: shared_outer");
  return first;
}

std::vector<std::string> stacked_names(const PerExpertModule& module) {
  const std::string& first = module.matrices.front();
  const std::string experts = first.substr(0, first.rfind(kExperts) + kExperts.size());
  return module.projections == 2 ? std::vector{experts + "w1", experts + "w3"} : std::vector{experts + "w2"};
}

bool has_stacked_experts(const SafetensorsHeader& weights) {
  return std::any_of(weights.entries.begin(), weights.entries.end(), [](const SafetensorsEntry& entry) {
    return entry.shape.size() == 3 && is_stacked_name(adapted_module(entry.name));
  });
}

}  // namespace moraine
