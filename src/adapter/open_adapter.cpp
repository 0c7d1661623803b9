#include "adapter/open_adapter.h"

#include <algorithm>

#include "adapter/peft_import.h"
#include "base/error.h"

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

}  // namespace

AdapterSelection read_adapter_selection(const ModelLayout& layout, const std::filesystem::path& folder) {
  AdapterSelection selection{read_lora_config(folder), {}};
  const LoraConfig& config = selection.config;
  const std::vector<LoraModule> offered = layout.lora_modules();
  ModuleSelection target_modules = config.target_modules;
  target_modules.names = matching_names(target_modules.names, offered, /*experts=*/false);
  const auto target_parameters = matching_names(config.target_parameters, offered, /*experts=*/true);
  try {
    selection.targets = select_targets(offered, target_modules, config.exclude_modules, target_parameters, config.r);
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
