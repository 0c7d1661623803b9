#include "adapter/open_adapter.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "adapter/peft_import.h"
#include "adapter/plain_lora.h"
#include "base/error.h"
#include "base/log.h"
#include "base/path.h"
#include "base/text.h"

namespace moraine {
namespace {

// PEFT's lists often name layers of other families too ("gate_proj" where all layers have experts): they are moved from
// `names` to `unmatched`, because select_targets takes them for mistakes.
void drop_unmatched(std::vector<std::string>& names, const std::string& key, const std::vector<LoraModule>& offered,
                    bool experts, std::vector<std::string>& unmatched) {
  std::erase_if(names, [&](const std::string& name) {
    const bool matches = std::any_of(offered.begin(), offered.end(), [&](const LoraModule& module) {
      return (module.num_experts > 0) == experts && (module.name == name || module.name.ends_with("." + name));
    });
    if (!matches) unmatched.push_back(key + " " + quote_text(name));
    return !matches;
  });
}

// Refuses tensors of adapters of other modules than those `offered`, whatever the configuration says of them.
void check_adapted_modules(const SafetensorsHeader& weights, const std::vector<LoraModule>& offered) {
  std::set<std::string> modules, last_parts, shown;
  for (const LoraModule& module : offered) {
    const bool is_experts = module.num_experts > 0;
    const std::string name =
        is_experts ? module.name.substr(0, module.name.rfind('.')) : module.name;  // as its tensors have it
    modules.insert(name);
    last_parts.insert(last_component(name));
    shown.insert(is_experts ? module.local_name : last_component(name));
  }
  for (const SafetensorsEntry& entry : weights.entries) {
    const std::string module = adapted_module(entry.name);
    if (module.empty() || modules.contains(module)) continue;
    const std::string file = weights.path.string(), what = "holds an adapter of " + quote_text(module);
    if (last_parts.contains(last_component(module)))
      throw input_error(file, what + ", which this model does not have", "the adapter was made for another model");
    throw input_error(
        file, what + ", which is not supported",
        fmt::format(
            "this model's adapters can be of {}: train it without that target; or the adapter is another model's",
            join_words({shown.begin(), shown.end()})));
  }
}

std::vector<LoraModule> modules_as(PeftClass peft_class, const ModelLayout& layout) {
  std::vector<LoraModule> modules = layout.lora_modules();
  for (LoraModule& module : modules) module.name = module_name_in(peft_class, module.name);
  return modules;
}

}  // namespace

TargetSelection select_targets_as(PeftClass peft_class, const ModelLayout& layout,
                                  const ModuleSelection& target_modules, const ModuleSelection& exclude_modules,
                                  const std::vector<std::string>& target_parameters, int64_t r) {
  TargetSelection selection =
      select_targets(modules_as(peft_class, layout), target_modules, exclude_modules, target_parameters, r);
  std::map<std::string, std::string> our_name;
  for (const LoraModule& module : layout.lora_modules())
    our_name[module_name_in(peft_class, module.name)] = module.name;
  for (LoraModule& module : selection.modules) module.name = our_name.at(module.name);
  return selection;
}

AdapterSelection read_adapter_selection(const ModelLayout& layout, const std::filesystem::path& folder) {
  AdapterSelection selection{read_lora_config(folder), {}};
  LoraConfig& config = selection.config;
  std::optional<SafetensorsHeader> weights;
  if (const auto file = folder / "adapter_model.safetensors"; path_exists(file)) {
    weights = read_safetensors_header(file);
    selection.peft_class = peft_class_of(*weights);
  }
  const std::vector<LoraModule> offered = modules_as(selection.peft_class, layout);
  if (weights) check_adapted_modules(*weights, offered);
  drop_unmatched(config.target_modules.names, "target_modules", offered, /*experts=*/false, selection.unmatched);
  drop_unmatched(config.target_parameters, "target_parameters", offered, /*experts=*/true, selection.unmatched);
  const std::string where = (folder / "adapter_config.json").string();
  const auto select = [&] {
    try {
      return select_targets_as(selection.peft_class, layout, config.target_modules, config.exclude_modules,
                               config.target_parameters, config.r);
    } catch (const Error& error) {
      throw input_error(where, error.where + ": " + error.message, "the adapter was made for another model");
    }
  };
  const std::vector<LoraModule> of_all_layers = select().modules;
  const std::vector<LoraModule> modules = in_transformed_layers(config, of_all_layers, selection.peft_class);
  config = plain_lora(std::move(config), modules, selection.peft_class, where, selection.unmatched);
  config.layers_to_transform.clear();
  if (modules.size() < of_all_layers.size()) {
    config.target_modules.names.clear();
    for (const LoraModule& module : modules)
      if (module.num_experts == 0)
        config.target_modules.names.push_back(module_name_in(selection.peft_class, module.name));
  }
  selection.targets = select();
  return selection;
}

void warn_of_unmatched_targets(const std::vector<std::string>& unmatched, const std::filesystem::path& folder) {
  if (unmatched.empty()) return;
  log_warning(fmt::format("{}: {} {} nothing in this model and {} left out", (folder / "adapter_config.json").string(),
                          join_words(unmatched), unmatched.size() == 1 ? "matches" : "match",
                          unmatched.size() == 1 ? "is" : "are"));
}

OpenedAdapter open_adapter(const ModelLayout& layout, const std::filesystem::path& folder, ExpertRange experts,
                           at::Device device) {
  AdapterSelection selection = read_adapter_selection(layout, folder);
  const LoraConfig& config = selection.config;
  OpenedAdapter opened{config, AdapterState(selection.targets.modules, config.r, config.lora_alpha, experts, device),
                       selection.targets.patterns, selection.unmatched};
  import_adapter(opened.state, folder);
  return opened;
}

}  // namespace moraine
