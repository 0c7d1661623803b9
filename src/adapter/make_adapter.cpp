#include "adapter/make_adapter.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "adapter/module_settings.h"
#include "adapter/shared_outer.h"
#include "adapter/target_kind.h"
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
    if (!is_parameter(m)) names.insert(last_component(m.name));
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
    if (!is_parameter(m)) wanted.push_back(m.name);
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

bool given_key(const AdapterConfig& wanted, const char* key) {
  return std::find(wanted.given.begin(), wanted.given.end(), key) != wanted.given.end();
}

// In PEFT the factors of parameters are added to weights: there are no activations that could be left out.
void check_dropout(const AdapterSelection& selection) {
  const std::vector<LoraModule>& modules = selection.targets.modules;
  if (selection.config.lora_dropout == 0) return;
  if (std::any_of(modules.begin(), modules.end(), is_parameter))
    throw input_error("adapter.lora_dropout", "does not work together with adapters of experts or routers",
                      "set it to 0");
}

void check_patterns_match(LoraConfig config, const std::vector<LoraModule>& modules) {
  const std::vector<std::string> unmatched = take_unmatched_patterns(config, modules);
  if (unmatched.empty()) return;
  throw input_error("adapter." + unmatched.front(),
                    "matches no adapted weight, or only ones that a key before it matches",
                    "keys are regular expressions over the ends of names");
}

// adapter.expert_r as PEFT knows it. Keys that are written themselves come first.
void add_expert_r(LoraConfig& config, int64_t r) {
  for (const std::string& parameter : config.target_parameters)
    if (last_component(parameter) != "weight") config.rank_pattern.emplace_back(parameter, r);  // not of a router
}

void check_agrees(const ModelLayout& layout, const AdapterConfig& wanted, const AdapterSelection& read) {
  const LoraConfig& found = read.config;
  const auto given = [&](const char* key) { return given_key(wanted, key); };
  const auto disagree = [&](const std::string& key, const std::string& what) {
    throw input_error("adapter." + key, fmt::format("{} disagrees with {}/adapter_config.json", what, wanted.init_from),
                      "leave the key out: it follows adapter.init_from");
  };
  if (given("r") && wanted.r != found.r) disagree("r", fmt::format("{} (the folder says {})", wanted.r, found.r));
  if (given("lora_alpha") && wanted.lora_alpha != found.lora_alpha)
    disagree("lora_alpha", fmt::format("{} (the folder says {})", wanted.lora_alpha, found.lora_alpha));
  if (given("experts") && found.experts != ExpertFactors::kEach && wanted.experts != found.experts)
    disagree("experts", fmt::format("{} (the folder says {})", word_of(wanted.experts), word_of(found.experts)));
  LoraConfig merged = found;
  if (given("target_modules")) merged.target_modules = wanted.target_modules;
  if (given("exclude_modules")) merged.exclude_modules = wanted.exclude_modules;
  if (given("target_parameters")) merged.target_parameters = wanted.target_parameters;
  if (given("layers_to_transform")) merged.layers_to_transform = wanted.layers_to_transform;
  if (given("use_rslora")) merged.use_rslora = wanted.use_rslora;
  if (given("rank_pattern")) merged.rank_pattern = wanted.rank_pattern;
  if (given("alpha_pattern")) merged.alpha_pattern = wanted.alpha_pattern;
  if (wanted.expert_r) {
    // The folder's patterns may hold another expert_r, which must not win.
    const PatternMap<int64_t> of_folder = given("rank_pattern") ? PatternMap<int64_t>() : found.rank_pattern;
    if (!given("rank_pattern")) merged.rank_pattern.clear();
    add_expert_r(merged, *wanted.expert_r);
    merged.rank_pattern.insert(merged.rank_pattern.end(), of_folder.begin(), of_folder.end());
  }
  const TargetSelection selection = select_in_layers(read.peft_class, layout, merged);
  const std::set<std::string> adapted = names_of(read.targets.modules);
  for (const char* key : {"target_modules", "exclude_modules", "layers_to_transform", "target_parameters"})
    if (given(key) && names_of(selection.modules) != adapted) disagree(key, "the selection");
  const auto same_ranks = [](const LoraModule& a, const LoraModule& b) { return a.r == b.r && a.scaling == b.scaling; };
  for (const char* key : {"use_rslora", "expert_r", "rank_pattern", "alpha_pattern"}) {
    if (given(key) && !std::equal(selection.modules.begin(), selection.modules.end(), read.targets.modules.begin(),
                                  read.targets.modules.end(), same_ranks))
      disagree(key, "a rank or scaling");
  }
}

}  // namespace

AdapterSelection select_adapter(const ModelLayout& layout, const AdapterConfig& wanted, const std::string& base_model) {
  if (!wanted.init_from.empty()) {
    AdapterSelection read = read_adapter_selection(layout, wanted.init_from);
    check_agrees(layout, wanted, read);
    if (given_key(wanted, "experts")) {  // what says nothing may be what is wanted: reading its tensors tells
      read.config.experts = wanted.experts;
      set_expert_factors(read.targets.modules, wanted.experts);
    }
    read.config.base_model_name_or_path = base_model;
    if (given_key(wanted, "lora_dropout")) read.config.lora_dropout = wanted.lora_dropout;
    check_dropout(read);
    return read;
  }
  AdapterSelection made;
  LoraConfig& config = made.config;
  config.r = wanted.r;
  config.lora_alpha = wanted.lora_alpha;
  config.use_rslora = wanted.use_rslora;
  config.lora_dropout = wanted.lora_dropout;
  config.rank_pattern = wanted.rank_pattern;
  config.alpha_pattern = wanted.alpha_pattern;
  config.target_modules = wanted.target_modules;
  config.exclude_modules = wanted.exclude_modules;
  config.layers_to_transform = wanted.layers_to_transform;
  config.target_parameters = wanted.target_parameters;
  config.base_model_name_or_path = base_model;
  config.experts = wanted.experts;
  if (wanted.expert_r) {
    if (wanted.target_parameters.empty())
      throw input_error("adapter.expert_r", "is set, but no experts are adapted",
                        "leave it out, or name them in adapter.target_parameters");
    add_expert_r(config, *wanted.expert_r);
  }
  const int64_t layers = layout.shape().num_hidden_layers;
  for (int64_t layer : wanted.layers_to_transform) {
    if (layer >= layers)
      throw input_error("adapter.layers_to_transform", fmt::format("there is no layer {}", layer),
                        fmt::format("this model's layers are 0 to {}", layers - 1));
  }
  const std::string embedding = last_component(kEmbeddingModule);
  const std::vector<std::string>& names = wanted.target_modules.names;
  if (!wanted.layers_to_transform.empty() && std::find(names.begin(), names.end(), embedding) != names.end())
    throw input_error("adapter.layers_to_transform", "leaves out " + embedding + ", which is in no layer",
                      fmt::format("name it in full in adapter.target_modules: {}", kEmbeddingModule));
  made.targets = select_in_layers(PeftClass::kText, layout, config);
  check_patterns_match(config, made.targets.modules);
  check_dropout(made);
  if (config.experts != ExpertFactors::kEach && expert_factors_of(made.targets.modules) == ExpertFactors::kEach)
    throw input_error("adapter.experts", fmt::format("is {}, but no experts are adapted", word_of(config.experts)),
                      "leave it out, or name them in adapter.target_parameters");
  config.target_modules = resolved(config.target_modules, made.targets.modules);
  config.exclude_modules = excluding(wanted.exclude_modules, namesakes(layout, made.targets.modules));
  return made;
}

OpenedAdapter make_adapter(const ModelLayout& layout, const AdapterConfig& wanted, const std::string& base_model,
                           ExpertRange experts, at::Device device) {
  AdapterSelection selection = select_adapter(layout, wanted, base_model);
  if (!wanted.init_from.empty()) {
    OpenedAdapter opened = open_selected(layout, wanted.init_from, std::move(selection), experts, device);
    opened.state.set_dropout(opened.config.lora_dropout);
    return opened;
  }
  OpenedAdapter made{selection.config, AdapterState(std::move(selection.targets.modules), experts, device),
                     std::move(selection.targets.patterns)};
  made.state.initialize(wanted.seed);
  made.state.set_dropout(made.config.lora_dropout);
  return made;
}

}  // namespace moraine
