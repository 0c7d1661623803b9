#include "adapter/open_adapter.h"

#include <algorithm>
#include <map>

#include "adapter/peft_import.h"
#include "base/error.h"
#include "base/path.h"

namespace moraine {
namespace {

// PEFT's lists often name layers of other families too ("gate_proj" where all layers have experts): they are dropped
// here, because select_targets takes them for mistakes. A tensor that belongs to one is still found out by
// import_adapter.
std::vector<std::string> matching_names(std::vector<std::string> names, const std::vector<LoraModule>& offered,
                                        bool experts) {
  std::erase_if(names, [&](const std::string& name) {
    return std::none_of(offered.begin(), offered.end(), [&](const LoraModule& module) {
      return (module.num_experts > 0) == experts && (module.name == name || module.name.ends_with("." + name));
    });
  });
  return names;
}

std::vector<LoraModule> modules_as(PeftClass peft_class, const ModelLayout& layout) {
  std::vector<LoraModule> modules = layout.lora_modules();
  for (LoraModule& module : modules) module.name = module_name_in(peft_class, module.name);
  return modules;
}

}  // namespace

TargetSelection select_targets_as(PeftClass peft_class, const ModelLayout& layout, const ModuleSelection& target_modules,
                                  const ModuleSelection& exclude_modules, const std::vector<std::string>& target_parameters, int64_t r) {
  TargetSelection selection = select_targets(modules_as(peft_class, layout), target_modules, exclude_modules, target_parameters, r);
  std::map<std::string, std::string> our_name;
  for (const LoraModule& module : layout.lora_modules()) our_name[module_name_in(peft_class, module.name)] = module.name;
  for (LoraModule& module : selection.modules) module.name = our_name.at(module.name);
  return selection;
}

AdapterSelection read_adapter_selection(const ModelLayout& layout, const std::filesystem::path& folder) {
  AdapterSelection selection{read_lora_config(folder), {}};
  const LoraConfig& config = selection.config;
  if (const auto weights = folder / "adapter_model.safetensors"; path_exists(weights))
    selection.peft_class = peft_class_of(read_safetensors_header(weights));
  const std::vector<LoraModule> offered = modules_as(selection.peft_class, layout);
  ModuleSelection target_modules = config.target_modules;
  target_modules.names = matching_names(target_modules.names, offered, /*experts=*/false);
  const auto target_parameters = matching_names(config.target_parameters, offered, /*experts=*/true);
  try {
    selection.targets = select_targets_as(selection.peft_class, layout, target_modules, config.exclude_modules, target_parameters, config.r);
  } catch (const Error& error) {
    throw input_error((folder / "adapter_config.json").string(), error.where + ": " + error.message,
                      "the adapter was made for another model");
  }
  return selection;
}

OpenedAdapter open_adapter(const ModelLayout& layout, const std::filesystem::path& folder, ExpertRange experts,
                           at::Device device) {
  AdapterSelection selection = read_adapter_selection(layout, folder);
  const LoraConfig& config = selection.config;
  OpenedAdapter opened{config, AdapterState(selection.targets.modules, config.r, config.lora_alpha, experts, device),
                       selection.targets.patterns};
  import_adapter(opened.state, folder);
  return opened;
}

}  // namespace moraine
