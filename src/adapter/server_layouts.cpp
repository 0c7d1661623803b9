#include "adapter/server_layouts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "adapter/per_expert_layout.h"
#include "adapter/server_keys.h"
#include "adapter/target_kind.h"
#include "adapter/target_selection.h"
#include "base/error.h"

namespace moraine {
namespace {

constexpr const char* kMergeHint = "train without it (adapter.exclude_modules), or merge the adapter into its model";

int64_t reserved_rank(const Server& server, int64_t r, const std::string& where) {
  if (server.ranks.empty()) return r;
  const auto found = std::lower_bound(server.ranks.begin(), server.ranks.end(), r);
  if (found == server.ranks.end())
    throw input_error(where, fmt::format("r is {}, more than {} takes, {}", r, server.version, server.ranks.back()),
                      "merge the adapter into its model");
  return *found;
}

// The names of the adapted modules in that layout.
std::vector<std::string> written_names(AdapterFormat format, const ModelLayout& layout,
                                       const AdapterSelection& selection, const std::string& where) {
  std::vector<std::string> names;
  if (format == AdapterFormat::kPerExpert) {
    const std::vector<PerExpertModule> stored =
        per_expert_modules(layout, selection.peft_class, selection.targets.modules);
    check_per_expert(selection.targets.modules, stored, where);
    for (const PerExpertModule& module : stored)
      names.insert(names.end(), module.matrices.begin(), module.matrices.end());
    return names;
  }
  for (const LoraModule& module : selection.targets.modules)
    names.push_back(module_name_in(selection.peft_class, adapted_name(module)));
  return names;
}

void check_modules(const Server& server, const FamilyRules& rules, const std::vector<std::string>& names,
                   const std::string& where) {
  const std::vector<NameRule> fates = rules_of_names(server, rules, names);
  const std::set<std::string> all(names.begin(), names.end());
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string what = fmt::format("adapts {}, which {} does not", names[i], server.version);
    if (fates[i].fate != Fate::kRead) throw input_error(where, fmt::format("{} ({})", what, fates[i].says), kMergeHint);
    const std::string last = last_component(names[i]), parent = names[i].substr(0, names[i].size() - last.size());
    for (const auto& [one, other] : server.companions)
      if (last == one && !all.contains(parent + other))
        throw input_error(where, what + " alone",
                          fmt::format("train {} with {}, or merge the adapter into its model", one, other));
    const std::string target = called_target(server, names[i]);
    if (!rules.targets.empty() && std::find(rules.targets.begin(), rules.targets.end(), target) == rules.targets.end())
      throw input_error(where, fmt::format("{} under that name in target_modules", what),
                        "export it with --layout per-expert and name there gate_proj, up_proj and down_proj for w1, w3 "
                        "and w2, or merge the adapter into its model");
  }
}

void check_expert_parameters(const Server& server, const ModelLayout& layout, const AdapterSelection& selection,
                             const std::string& where) {
  std::map<int64_t, int64_t> offered, adapted;  // of each layer
  for (const LoraModule& module : layout.lora_modules()) offered[module.layer] += module.num_experts > 0;
  for (const LoraModule& module : selection.targets.modules) adapted[module.layer] += module.num_experts > 0;
  for (const auto& [layer, count] : adapted) {
    if (count == 0 || count == offered[layer]) continue;
    throw input_error(where,
                      fmt::format("adapts one of the experts' parameters of layer {}, but {} takes both or none", layer,
                                  server.version),
                      "train both (adapter.target_parameters), or merge the adapter into its model");
  }
}

// Settings that a server does not look at would change what the adapter computes.
void check_settings(const Server& server, const LoraConfig& config, const std::string& where) {
  for (const ConfigRule& rule : server.config) {
    const bool is_set = (rule.key == "use_rslora" && config.use_rslora) ||
                        (rule.key == "rank_pattern" && !config.rank_pattern.empty()) ||
                        (rule.key == "alpha_pattern" && !config.alpha_pattern.empty());
    if (is_set)
      throw input_error(where,
                        fmt::format("has {}, which {} does not follow ({})", rule.key, server.version, rule.says),
                        "train with one r and one lora_alpha for all, or merge the adapter into its model");
  }
}

}  // namespace

ServerLayout server_layout(const std::string& name, const std::string& family, const ModelLayout& layout,
                           const std::filesystem::path& folder, const AdapterSelection& selection) {
  const auto server = std::find_if(servers().begin(), servers().end(), [&](const Server& s) { return s.name == name; });
  MORAINE_ASSERT(server != servers().end() && !server->arguments.empty(), "a server's name: " + name);
  const std::string where = folder.string();
  const FamilyRules* rules = rules_for(*server, family);
  if (!rules)
    throw input_error(where,
                      fmt::format("is an adapter of {}, of which {} is not known to read any", family, server->version),
                      "merge it into its model, or write another layout");
  check_modules(*server, *rules, written_names(rules->formats.front(), layout, selection, where), where);
  check_settings(*server, selection.config, where);
  if (server->experts != Experts::kEach) check_expert_parameters(*server, layout, selection, where);
  int64_t highest = 0;
  for (const LoraModule& module : selection.targets.modules) highest = std::max(highest, module.r);
  const int64_t rank = reserved_rank(*server, highest, where);
  return {rules->formats.front(), server->version,
          rules->arguments + fmt::format(fmt::runtime(server->arguments), rank)};
}

ChosenLayout choose_layout(SaveLayout wanted, const std::string& family, const ModelLayout& layout,
                           const std::filesystem::path& folder, const AdapterSelection& selection) {
  if (wanted == SaveLayout::kPerExpert || wanted == SaveLayout::kSharedOuter)
    check_per_expert(selection.targets.modules,
                     per_expert_modules(layout, selection.peft_class, selection.targets.modules), folder.string());
  switch (wanted) {
    case SaveLayout::kPeft:
      return {AdapterFormat::kPeft, ""};
    case SaveLayout::kPeft0190:
      return {AdapterFormat::kPeft0190, ""};
    case SaveLayout::kPerExpert:
      return {AdapterFormat::kPerExpert, ""};
    case SaveLayout::kSharedOuter:
      return {AdapterFormat::kSharedOuter, ""};
    default:
      const ServerLayout server = server_layout(word_of(wanted), family, layout, folder, selection);
      return {server.format, fmt::format("{}: {}", server.version, server.arguments)};
  }
}

}  // namespace moraine
