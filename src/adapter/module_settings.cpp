#include "adapter/module_settings.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "adapter/module_pattern.h"
#include "adapter/shared_outer.h"
#include "adapter/target_kind.h"
#include "adapter/target_selection.h"
#include "base/text.h"

namespace moraine {
namespace {

template <typename T>
void take_unmatched(PatternMap<T>& map, const std::string& key, const std::vector<LoraModule>& modules,
                    std::vector<std::string>& unmatched) {
  const ModulePattern<T> pattern(map, "adapter." + key);
  std::vector<bool> used(map.size());
  for (const LoraModule& module : modules)
    if (const auto found = pattern.find(module.name)) used[*found] = true;
  PatternMap<T> kept;
  for (size_t i = 0; i < map.size(); ++i) {
    if (used[i])
      kept.push_back(map[i]);
    else
      unmatched.push_back(key + " " + quote_text(map[i].first));
  }
  map = std::move(kept);
}

}  // namespace

void set_ranks(std::vector<LoraModule>& modules, const LoraConfig& config) {
  const ModulePattern<int64_t> ranks(config.rank_pattern, "adapter.rank_pattern");
  const ModulePattern<double> alphas(config.alpha_pattern, "adapter.alpha_pattern");
  for (LoraModule& module : modules) {
    module.r = ranks.of(module.name, config.r);
    module.lora_alpha = alphas.of(module.name, config.lora_alpha);
    module.scaling = config.scaling(module.r, module.lora_alpha);
  }
  set_expert_factors(modules, config.experts);
}

std::vector<std::string> take_unmatched_patterns(LoraConfig& config, const std::vector<LoraModule>& modules) {
  std::vector<std::string> unmatched;
  take_unmatched(config.rank_pattern, "rank_pattern", modules, unmatched);
  take_unmatched(config.alpha_pattern, "alpha_pattern", modules, unmatched);
  return unmatched;
}

LoraConfig with_ranks_of(LoraConfig config, const std::vector<LoraModule>& modules) {
  using Rank = std::pair<int64_t, double>;  // r and lora_alpha
  const auto rank_of = [&](const LoraModule& module) {
    return Rank{module.r, config.use_rslora ? module.scaling * static_cast<double>(module.r) : module.lora_alpha};
  };
  const auto first_experts =
      std::find_if(modules.begin(), modules.end(), [](const LoraModule& module) { return module.num_experts > 0; });
  const Rank most = rank_of(first_experts != modules.end() ? *first_experts : modules.front());
  std::map<std::string, std::vector<const LoraModule*>> by_last;  // by the last components of their names
  for (const LoraModule& module : modules) by_last[last_component(module.name)].push_back(&module);
  PatternMap<int64_t> ranks;
  PatternMap<double> alphas;
  const auto add = [&](const std::string& key, const Rank& rank) {
    if (rank.first != most.first) ranks.emplace_back(key, rank.first);
    if (rank.second != most.second) alphas.emplace_back(key, rank.second);
  };
  for (const auto& [last, namesakes] : by_last) {
    const Rank rank = rank_of(*namesakes.front());
    if (std::all_of(namesakes.begin(), namesakes.end(), [&](const LoraModule* m) { return rank_of(*m) == rank; })) {
      add(last, rank);
    } else {
      for (const LoraModule* module : namesakes) add(module->name, rank_of(*module));
    }
  }
  std::tie(config.r, config.lora_alpha) = most;
  config.rank_pattern = std::move(ranks);
  config.alpha_pattern = std::move(alphas);
  config.use_rslora = false;
  return config;
}

std::vector<LoraModule> in_transformed_layers(const LoraConfig& config, std::vector<LoraModule> selected,
                                              PeftClass peft_class) {
  if (config.layers_to_transform.empty()) return selected;
  const auto holds = [](const auto& list, const auto& value) {
    return std::find(list.begin(), list.end(), value) != list.end();
  };
  std::erase_if(selected, [&](const LoraModule& module) {
    // Neither parameters nor modules with their whole name in the list are asked for their layer.
    return !is_parameter(module) && !holds(config.layers_to_transform, module.layer) &&
           !holds(config.target_modules.names, module_name_in(peft_class, module.name));
  });
  return selected;
}

}  // namespace moraine
