#include "adapter/make_adapter.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "adapter/target_names.h"
#include "adapter/target_selection.h"
#include "base/error.h"

namespace moraine {
namespace {

std::set<std::string> names_of(const std::vector<LoraModule>& modules) {
  std::set<std::string> names;
  for (const LoraModule& m : modules) names.insert(m.name);
  return names;
}

// all-linear is saved as PEFT saves it: the names it stood for.
ModuleSelection resolved(const ModuleSelection& selection, const std::vector<LoraModule>& selected) {
  if (!selection.all_linear) return selection;
  std::set<std::string> names;
  for (const LoraModule& m : selected)
    if (m.num_experts == 0) names.insert(last_component(m.name));
  ModuleSelection list;
  list.names.assign(names.begin(), names.end());
  return list;
}

// Linear layers that no adapter is offered for, but that PEFT finds by the names of selected ones: DeepSeek-V4's
// indexer has a kv_proj as its attention has. The ends of their names.
std::vector<std::string> namesakes(const ModelLayout& layout, const std::vector<LoraModule>& selected) {
  const std::set<std::string> offered = names_of(layout.lora_modules());
  std::vector<std::string> wanted, others;
  for (const LoraModule& m : selected)
    if (m.num_experts == 0) wanted.push_back(m.name);
  for (std::string& name : linear_layers(layout, PeftClass::kText))
    if (!offered.contains(name)) others.push_back(std::move(name));
  return target_names(wanted, others).excluded;
}

// What the recipe excludes, and those.
ModuleSelection excluding(ModuleSelection excluded, const std::vector<std::string>& names) {
  if (!excluded.regex) {
    excluded.names.insert(excluded.names.end(), names.begin(), names.end());
  } else if (!names.empty()) {
    std::string any = fmt::format("{}", fmt::join(names, "|"));
    for (size_t dot = any.find('.'); dot != any.npos; dot = any.find('.', dot + 2)) any.insert(dot, "\\");
    excluded.regex = fmt::format("(?:{})|.*\\.(?:{})", *excluded.regex, any);
  }
  return excluded;
}

void check_agrees(const ModelLayout& layout, const AdapterConfig& wanted, const AdapterSelection& read) {
  const LoraConfig& found = read.config;
  auto given = [&](const char* key) {
    return std::find(wanted.given.begin(), wanted.given.end(), key) != wanted.given.end();
  };
  auto disagree = [&](const std::string& key, const std::string& what) {
    throw input_error("adapter." + key, fmt::format("{} disagrees with {}/adapter_config.json", what, wanted.init_from),
                      "leave the key out: it follows adapter.init_from");
  };
  if (given("r") && wanted.r != found.r) disagree("r", fmt::format("{} (the folder says {})", wanted.r, found.r));
  if (given("lora_alpha") && wanted.lora_alpha != found.lora_alpha)
    disagree("lora_alpha", fmt::format("{} (the folder says {})", wanted.lora_alpha, found.lora_alpha));
  const std::set<std::string> of_folder = names_of(read.targets.modules);
  for (const char* key : {"target_modules", "exclude_modules", "target_parameters"}) {
    if (!given(key)) continue;
    const TargetSelection selection = select_targets_as(
        read.peft_class, layout, given("target_modules") ? wanted.target_modules : found.target_modules,
        given("exclude_modules") ? wanted.exclude_modules : found.exclude_modules,
        given("target_parameters") ? wanted.target_parameters : found.target_parameters, found.r);
    if (names_of(selection.modules) != of_folder) disagree(key, "the selection");
  }
}

}  // namespace

AdapterSelection select_adapter(const ModelLayout& layout, const AdapterConfig& wanted, const std::string& base_model) {
  if (!wanted.init_from.empty()) {
    AdapterSelection read = read_adapter_selection(layout, wanted.init_from);
    check_agrees(layout, wanted, read);
    read.config.base_model_name_or_path = base_model;
    return read;
  }
  AdapterSelection made{{},
                        select_targets(layout.lora_modules(), wanted.target_modules, wanted.exclude_modules,
                                       wanted.target_parameters, wanted.r)};
  made.config.r = wanted.r;
  made.config.lora_alpha = wanted.lora_alpha;
  made.config.target_modules = resolved(wanted.target_modules, made.targets.modules);
  made.config.exclude_modules = excluding(wanted.exclude_modules, namesakes(layout, made.targets.modules));
  made.config.target_parameters = wanted.target_parameters;
  made.config.base_model_name_or_path = base_model;
  return made;
}

OpenedAdapter make_adapter(const ModelLayout& layout, const AdapterConfig& wanted, const std::string& base_model,
                           ExpertRange experts, at::Device device) {
  AdapterSelection selection = select_adapter(layout, wanted, base_model);
  if (!wanted.init_from.empty()) {
    OpenedAdapter opened = open_adapter(layout, wanted.init_from, experts, device);
    opened.config = std::move(selection.config);
    return opened;
  }
  OpenedAdapter made{selection.config,
                     AdapterState(std::move(selection.targets.modules), wanted.r, wanted.lora_alpha, experts, device),
                     std::move(selection.targets.patterns)};
  made.state.initialize(wanted.seed);
  return made;
}

}  // namespace moraine
