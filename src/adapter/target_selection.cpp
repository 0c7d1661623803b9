#include "adapter/target_selection.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "adapter/full_match.h"
#include "adapter/target_kind.h"
#include "base/error.h"
#include "base/text.h"

namespace moraine {
namespace {

bool is_name_or_suffix(const std::string& full, const std::string& name) {
  return full == name || full.ends_with("." + name);
}

// What a selection says of each module: the index of the pattern that matches it, or -1.
class Matcher {
 public:
  Matcher(const ModuleSelection& selection, const std::string& key) : selection_(selection) {
    if (selection.regex) regex_.emplace(*selection.regex, key);
  }
  bool matches(const std::string& name) const {
    if (selection_.all_linear) return true;
    if (regex_) return (*regex_)(name);
    return std::any_of(selection_.names.begin(), selection_.names.end(),
                       [&](const std::string& n) { return is_name_or_suffix(name, n); });
  }

 private:
  const ModuleSelection& selection_;
  std::optional<FullMatch> regex_;
};

std::string offered_names(const std::vector<LoraModule>& offered, bool parameters) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const LoraModule& m : offered) {
    if (is_parameter(m) != parameters) continue;
    std::string name = parameters ? m.local_name : last_component(m.name);
    if (seen.insert(name).second) names.push_back(name);
  }
  return names.empty() ? "none" : join_words(names);
}

// The row of `module` among `rows`, those of one pattern.
TargetSelection::Pattern& row_of(const LoraModule& module, std::vector<TargetSelection::Pattern>& rows,
                                 const std::string& pattern) {
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const TargetSelection::Pattern& row) {
    return row.r == module.r && row.scaling == module.scaling;
  });
  if (found != rows.end()) return *found;
  return rows.emplace_back(TargetSelection::Pattern{pattern, module.r, module.lora_alpha, module.scaling, 0, 0});
}

}  // namespace

std::string last_component(const std::string& name) { return name.substr(name.rfind('.') + 1); }

TargetSelection select_targets(const std::vector<LoraModule>& offered, const ModuleSelection& target_modules,
                               const ModuleSelection& exclude_modules,
                               const std::vector<std::string>& target_parameters) {
  TargetSelection selection;
  const Matcher excluded(exclude_modules, "adapter.exclude_modules");
  std::set<std::string> selected;
  auto add_pattern = [&](const std::string& pattern, const std::string& key, bool parameters, auto&& matches) {
    std::vector<TargetSelection::Pattern> rows;
    for (const LoraModule& m : offered) {
      if (is_parameter(m) != parameters || !matches(m)) continue;
      if (!parameters && !exclude_modules.empty() && excluded.matches(m.name)) continue;
      TargetSelection::Pattern& row = row_of(m, rows, pattern);
      row.matched += 1;
      row.parameters += lora_parameters(m);
      selected.insert(m.name);
    }
    if (rows.empty()) {
      throw input_error(key, fmt::format("'{}' matches nothing that can be adapted", pattern),
                        fmt::format("linear layers (target_modules): {}; experts and routers (target_parameters): {}",
                                    offered_names(offered, false), offered_names(offered, true)));
    }
    selection.patterns.insert(selection.patterns.end(), rows.begin(), rows.end());
  };

  if (target_modules.all_linear) {
    add_pattern("all-linear", "adapter.target_modules", false, [](const LoraModule& m) { return m.in_layer(); });
  } else if (target_modules.regex) {
    const Matcher regex(target_modules, "adapter.target_modules");
    add_pattern(*target_modules.regex, "adapter.target_modules", false,
                [&](const LoraModule& m) { return regex.matches(m.name); });
  }
  for (const std::string& name : target_modules.names)
    add_pattern(name, "adapter.target_modules", false,
                [&](const LoraModule& m) { return is_name_or_suffix(m.name, name); });
  for (const std::string& name : target_parameters)
    add_pattern(name, "adapter.target_parameters", true,
                [&](const LoraModule& m) { return is_name_or_suffix(m.name, name); });

  for (const LoraModule& m : offered)
    if (selected.contains(m.name)) selection.modules.push_back(m);
  if (selection.modules.empty()) {
    throw input_error("adapter", "nothing is selected for training",
                      "set adapter.target_modules or adapter.target_parameters");
  }
  return selection;
}

}  // namespace moraine
