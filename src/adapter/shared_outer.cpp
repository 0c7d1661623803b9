#include "adapter/shared_outer.h"

#include <algorithm>
#include <array>

namespace moraine {
namespace {

constexpr const char* kMark = "adapter.experts";  // of the metadata; its value is a recipe's

constexpr std::string_view kExperts = ".experts.";

bool is_stacked_name(const std::string& module) {
  constexpr std::array<const char*, 3> kNames{"w1", "w2", "w3"};
  return std::any_of(kNames.begin(), kNames.end(),
                     [&](const char* name) { return module.ends_with(std::string(kExperts) + name); });
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

Error not_shared(const std::string& file, const std::string& tensor) {
  return input_error(file, "tensor " + tensor + " is not the same for all experts",
                     "the adapter was not trained with adapter.experts: shared_outer");
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
