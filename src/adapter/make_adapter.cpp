#include "adapter/make_adapter.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.h"

namespace moraine {
namespace {

// all-linear is saved as PEFT saves it: the names it stood for.
ModuleSelection resolved(const ModuleSelection& selection, const std::vector<LoraModule>& selected) {
  if (!selection.all_linear) return selection;
  std::set<std::string> names;
  for (const LoraModule& m : selected)
    if (m.num_experts == 0) names.insert(m.name.substr(m.name.rfind('.') + 1));
  ModuleSelection list;
  list.names.assign(names.begin(), names.end());
  return list;
}

std::set<std::string> names_of(const std::vector<LoraModule>& modules) {
  std::set<std::string> names;
  for (const LoraModule& m : modules) names.insert(m.name);
  return names;
}

void check_agrees(const ModelLayout& layout, const AdapterConfig& wanted, const OpenedAdapter& opened) {
  const LoraConfig& found = opened.config;
  auto given = [&](const char* key) { return std::find(wanted.given.begin(), wanted.given.end(), key) != wanted.given.end(); };
  auto disagree = [&](const std::string& key, const std::string& what) {
    throw input_error("adapter." + key, fmt::format("{} disagrees with {}/adapter_config.json", what, wanted.init_from),
                      "leave the key out: it follows adapter.init_from");
  };
  if (given("r") && wanted.r != found.r) disagree("r", fmt::format("{} (the folder says {})", wanted.r, found.r));
  if (given("lora_alpha") && wanted.lora_alpha != found.lora_alpha)
    disagree("lora_alpha", fmt::format("{} (the folder says {})", wanted.lora_alpha, found.lora_alpha));
  std::set<std::string> of_folder;
  for (const AdapterEntry& entry : opened.state.entries()) of_folder.insert(entry.module.name);
  for (const char* key : {"target_modules", "exclude_modules", "target_parameters"}) {
    if (!given(key)) continue;
    const TargetSelection selection = select_targets(
        layout.lora_modules(), given("target_modules") ? wanted.target_modules : found.target_modules,
        given("exclude_modules") ? wanted.exclude_modules : found.exclude_modules,
        given("target_parameters") ? wanted.target_parameters : found.target_parameters, found.r);
    if (names_of(selection.modules) != of_folder) disagree(key, "the selection");
  }
}

}  // namespace

OpenedAdapter make_adapter(const ModelLayout& layout, const AdapterConfig& wanted, const std::string& base_model,
                           ExpertRange experts, at::Device device) {
  if (!wanted.init_from.empty()) {
    OpenedAdapter opened = open_adapter(layout, wanted.init_from, experts, device);
    check_agrees(layout, wanted, opened);
    opened.config.base_model_name_or_path = base_model;
    return opened;
  }
  TargetSelection selection = select_targets(layout.lora_modules(), wanted.target_modules, wanted.exclude_modules,
                                             wanted.target_parameters, wanted.r);
  LoraConfig config;
  config.r = wanted.r;
  config.lora_alpha = wanted.lora_alpha;
  config.target_modules = resolved(wanted.target_modules, selection.modules);
  config.exclude_modules = wanted.exclude_modules;
  config.target_parameters = wanted.target_parameters;
  config.base_model_name_or_path = base_model;
  OpenedAdapter made{std::move(config), AdapterState(std::move(selection.modules), wanted.r, wanted.lora_alpha, experts, device),
                     std::move(selection.patterns)};
  made.state.initialize(wanted.seed);
  return made;
}

}  // namespace moraine
