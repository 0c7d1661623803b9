#include "adapter/open_adapter.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "adapter/module_settings.h"
#include "adapter/peft_import.h"
#include "adapter/peft_keys.h"
#include "adapter/per_expert_layout.h"
#include "adapter/shared_outer.h"
#include "adapter/target_kind.h"
#include "adapter/target_names.h"
#include "base/error.h"
#include "base/log.h"
#include "base/path.h"
#include "base/text.h"
#include "models/output_head.h"

namespace moraine {
namespace {

// PEFT's lists often name layers of other families too ("gate_proj" where all layers have experts): they are moved from
// `names` to `unmatched`, because select_targets takes them for mistakes.
void drop_unmatched(std::vector<std::string>& names, const std::string& key, const std::vector<LoraModule>& offered,
                    bool parameters, std::vector<std::string>& unmatched) {
  std::erase_if(names, [&](const std::string& name) {
    const bool matches = std::any_of(offered.begin(), offered.end(), [&](const LoraModule& module) {
      return is_parameter(module) == parameters && (module.name == name || module.name.ends_with("." + name));
    });
    if (!matches) unmatched.push_back(key + " " + quote_text(name));
    return !matches;
  });
}

// Refuses tensors of adapters of other modules than those `offered`, whatever the configuration says of them.
void check_adapted_modules(const SafetensorsHeader& weights, const std::vector<LoraModule>& offered) {
  std::set<std::string> modules, last_parts, shown;
  for (const LoraModule& module : offered) {
    const std::string name = adapted_name(module);
    modules.insert(name);
    last_parts.insert(last_component(name));
    shown.insert(is_parameter(module) ? module.local_name : last_component(name));
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

// What select_targets refuses, as a mistake of an adapter_config.json.
template <typename Select>
TargetSelection at_config(const std::string& where, const Select& select) {
  try {
    return select();
  } catch (const Error& error) {
    throw input_error(where, error.where + ": " + error.message, "the adapter was made for another model");
  }
}

}  // namespace

TargetSelection select_targets_as(PeftClass peft_class, const ModelLayout& layout, const LoraConfig& config) {
  std::vector<LoraModule> offered = modules_as(peft_class, layout);
  set_ranks(offered, config);
  TargetSelection selection =
      select_targets(offered, config.target_modules, config.exclude_modules, config.target_parameters);
  std::map<std::string, std::string> our_name;
  for (const LoraModule& module : layout.lora_modules())
    our_name[module_name_in(peft_class, module.name)] = module.name;
  for (LoraModule& module : selection.modules) module.name = our_name.at(module.name);
  return selection;
}

TargetSelection select_in_layers(PeftClass peft_class, const ModelLayout& layout, LoraConfig& config) {
  TargetSelection of_all_layers = select_targets_as(peft_class, layout, config);
  const std::vector<LoraModule> modules = in_transformed_layers(config, of_all_layers.modules, peft_class);
  config.layers_to_transform.clear();
  if (modules.size() == of_all_layers.modules.size()) return of_all_layers;
  config.target_modules = only({});
  for (const LoraModule& module : modules)
    if (!is_parameter(module)) config.target_modules.names.push_back(module_name_in(peft_class, module.name));
  return select_targets_as(peft_class, layout, config);
}

LoraConfig config_of_modules(const ModelLayout& layout, PeftClass peft_class, LoraConfig config,
                             std::vector<LoraModule> modules) {
  std::vector<std::string> adapted;
  std::map<std::string, int64_t> parameters;  // how many layers offer each, less those that adapt it
  for (const LoraModule& module : layout.lora_modules()) parameters[module.local_name] += is_parameter(module);
  for (const LoraModule& module : modules) {
    if (!is_parameter(module))
      adapted.push_back(module_name_in(peft_class, module.name));
    else
      --parameters[module.local_name];
  }
  TargetNames names = target_names(adapted, linear_layers(layout, peft_class));
  config.target_modules = only(std::move(names.targets));
  config.exclude_modules = only(std::move(names.excluded));
  std::set<std::string> adapted_parameters;
  for (const LoraModule& module : modules)
    if (is_parameter(module))
      adapted_parameters.insert(parameters[module.local_name] == 0 ? module.local_name
                                                                   : module_name_in(peft_class, module.name));
  config.target_parameters.assign(adapted_parameters.begin(), adapted_parameters.end());
  for (LoraModule& module : modules) module.name = module_name_in(peft_class, module.name);
  return with_ranks_of(std::move(config), modules);
}

namespace {

// Of an adapter in the per-expert layout, whose patterns mean the checkpoint's names.
AdapterSelection per_expert_selection(const ModelLayout& layout, AdapterSelection selection,
                                      const SafetensorsHeader& weights, const std::string& where) {
  LoraConfig& config = selection.config;
  const std::string layout_is = "the tensors are of the layout with linear layers for each expert";
  if (!config.target_parameters.empty())
    throw input_error(where, "key 'target_parameters' is set", layout_is + ": target_modules names them");
  if (config.use_rslora)
    throw input_error(where, "use_rslora is not supported", layout_is + ", in which programs differ about its scaling");
  std::vector<LoraModule> offered = layout.lora_modules();
  // A router is a linear layer there, but all-linear and patterns that match it anywhere mean none.
  std::erase_if(offered, [&](const LoraModule& module) {
    return is_router(module) &&
           !weights.find(
               factor_keys(module, per_expert_modules(layout, selection.peft_class, {module}).front().matrices.front())
                   .lora_a);
  });
  const std::vector<PerExpertModule> stored = per_expert_modules(layout, selection.peft_class, offered);
  std::vector<LoraModule> matrices;
  for (size_t i = 0; i < offered.size(); ++i) {
    for (const std::string& name : stored[i].matrices)
      matrices.push_back({name, offered[i].layer, offered[i].local_name, 0, offered[i].in_features,
                          offered[i].out_features / stored[i].projections});
  }
  std::vector<LoraModule> named = matrices;
  if (has_stacked_experts(weights)) {
    named.clear();
    for (size_t i = 0; i < offered.size(); ++i)
      for (const std::string& name : offered[i].num_experts > 0 ? stacked_names(stored[i]) : stored[i].matrices)
        named.push_back({name, offered[i].layer, name});
  }
  check_adapted_modules(weights, named);
  drop_unmatched(config.target_modules.names, "target_modules", matrices, /*parameters=*/false, selection.unmatched);
  std::vector<LoraModule> selected =
      at_config(where, [&] {
        set_ranks(matrices, config);
        return select_targets(matrices, config.target_modules, config.exclude_modules, {});
      }).modules;
  selected = in_transformed_layers(config, std::move(selected), PeftClass::kText);
  for (std::string& pattern : take_unmatched_patterns(config, selected))
    selection.unmatched.push_back(std::move(pattern));
  config.layers_to_transform.clear();

  std::map<std::string, const LoraModule*> by_name;
  for (const LoraModule& matrix : selected) by_name[matrix.name] = &matrix;
  std::vector<LoraModule> modules;
  for (size_t i = 0; i < offered.size(); ++i) {
    const auto is_selected = [&](const std::string& name) { return by_name.contains(name); };
    const auto missing = std::find_if_not(stored[i].matrices.begin(), stored[i].matrices.end(), is_selected);
    const auto found = std::find_if(stored[i].matrices.begin(), stored[i].matrices.end(), is_selected);
    if (found == stored[i].matrices.end()) continue;
    if (missing != stored[i].matrices.end())
      throw input_error(where, fmt::format("targets {} but not {}", *found, *missing),
                        "they are parts of one parameter here, " + offered[i].name);
    const LoraModule& first = *by_name.at(*found);
    for (const std::string& name : stored[i].matrices) {
      const LoraModule& matrix = *by_name.at(name);
      if (matrix.r == first.r && matrix.scaling == first.scaling) continue;
      const bool rank_differs = matrix.r != first.r;
      throw input_error(
          where,
          fmt::format("{} gives {} {} to {} and {} to {}", rank_differs ? "rank_pattern" : "alpha_pattern",
                      rank_differs ? "r" : "lora_alpha", rank_differs ? first.r : first.lora_alpha, first.name,
                      rank_differs ? matrix.r : matrix.lora_alpha, matrix.name),
          "they are parts of one parameter here, " + offered[i].name);
    }
    LoraModule& module = modules.emplace_back(offered[i]);
    module.r = first.r;
    module.lora_alpha = first.lora_alpha;
    module.scaling = first.scaling;
  }
  config = config_of_modules(layout, selection.peft_class, std::move(config), modules);
  if (config.lora_dropout != 0 && !config.target_parameters.empty())
    throw input_error(where, "lora_dropout does not work together with adapters of experts", "set lora_dropout to 0");
  selection.targets = select_targets_as(selection.peft_class, layout, config);
  MORAINE_ASSERT(selection.targets.modules.size() == modules.size(),
                 "the names of an adapter's modules mean these modules");
  return selection;
}

// One adapter for two modules is not made here.
void check_weight_tying(const ModelLayout& layout, const AdapterSelection& selection, const std::string& where) {
  if (!selection.config.ensure_weight_tying || !ties_head(layout)) return;
  for (const LoraModule& module : selection.targets.modules)
    if (!module.in_layer())
      throw input_error(where, "ensure_weight_tying is set, and it adapts " + module.name,
                        "embedding and output head have an adapter each here, as in PEFT without that key");
}

}  // namespace

AdapterSelection read_adapter_selection(const ModelLayout& layout, const std::filesystem::path& folder) {
  AdapterSelection selection{read_lora_config(folder), {}};
  LoraConfig& config = selection.config;
  if (has_swapped_experts(config.peft_version)) config.peft_version.clear();  // what is written of it has not
  const std::string where = (folder / "adapter_config.json").string();
  std::optional<SafetensorsHeader> weights;
  if (const auto file = folder / "adapter_model.safetensors"; path_exists(file)) {
    weights = read_safetensors_header(file);
    selection.peft_class = peft_class_of(*weights);
    config.experts = expert_factors_of(*weights);
  }
  if (weights && is_per_expert(layout, *weights, config))
    return per_expert_selection(layout, std::move(selection), *weights, where);
  const std::vector<LoraModule> offered = modules_as(selection.peft_class, layout);
  if (weights) check_adapted_modules(*weights, offered);
  drop_unmatched(config.target_modules.names, "target_modules", offered, /*parameters=*/false, selection.unmatched);
  drop_unmatched(config.target_parameters, "target_parameters", offered, /*parameters=*/true, selection.unmatched);
  const auto select = [&] {
    return at_config(where, [&] { return select_in_layers(selection.peft_class, layout, config); });
  };
  std::vector<LoraModule> modules = select().modules;
  for (LoraModule& module : modules) module.name = module_name_in(selection.peft_class, module.name);
  for (std::string& pattern : take_unmatched_patterns(config, modules))
    selection.unmatched.push_back(std::move(pattern));
  selection.targets = select();
  check_weight_tying(layout, selection, where);
  return selection;
}

void warn_of_unmatched_targets(const std::vector<std::string>& unmatched, const std::filesystem::path& folder) {
  if (unmatched.empty()) return;
  log_warning(fmt::format("{}: {} {} nothing in this model and {} left out", (folder / "adapter_config.json").string(),
                          join_words(unmatched), unmatched.size() == 1 ? "matches" : "match",
                          unmatched.size() == 1 ? "is" : "are"));
}

OpenedAdapter open_selected(const ModelLayout& layout, const std::filesystem::path& folder, AdapterSelection selection,
                            ExpertRange experts, at::Device device) {
  OpenedAdapter opened{std::move(selection.config), AdapterState(std::move(selection.targets.modules), experts, device),
                       std::move(selection.targets.patterns), std::move(selection.unmatched)};
  import_adapter(layout, opened.state, folder);
  return opened;
}

OpenedAdapter open_adapter(const ModelLayout& layout, const std::filesystem::path& folder, ExpertRange experts,
                           at::Device device) {
  return open_selected(layout, folder, read_adapter_selection(layout, folder), experts, device);
}

}  // namespace moraine
