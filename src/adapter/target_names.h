// Modules said as adapter_config.json says them: by the ends of their names.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "adapter/peft_layout.h"
#include "config/recipe.h"

namespace moraine {

// The names of all linear layers of a model's decoder layers, adapted ones and those that cannot be, as transformers'
// class has them.
std::vector<std::string> linear_layers(const ModelLayout& layout, PeftClass peft_class);

struct TargetNames {
  std::vector<std::string> targets, excluded;  // of target_modules and exclude_modules
};
// The last components of the names `adapted`, and ends of those of `others` that PEFT would find by these too and shall
// not.
TargetNames target_names(const std::vector<std::string>& adapted, const std::vector<std::string>& others);

// Those names and nothing else.
inline ModuleSelection only(std::vector<std::string> names) {
  return {.all_linear = false, .regex = {}, .names = std::move(names)};
}

}  // namespace moraine
