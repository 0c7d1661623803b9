// Which weights get an adapter: PEFT's matching rules over the modules a model offers.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "config/recipe.h"
#include "models/model.h"

namespace moraine {

// "q_proj" of "model.layers.0.self_attn.q_proj".
std::string last_component(const std::string& name);

// Trainable elements of a module's adapter.
inline int64_t lora_parameters(const LoraModule& m) {
  return m.r * ((m.has_expert_a() ? m.num_experts : 1) * m.in_features +
                (m.has_expert_b() ? m.num_experts : 1) * m.out_features);
}

struct TargetSelection {
  std::vector<LoraModule> modules;  // selected, in the model's order
  // For the table at the start of a run: those of one rank and scaling that a pattern matched.
  struct Pattern {
    std::string pattern;
    int64_t r = 0;
    double lora_alpha = 0, scaling = 0;
    int64_t matched = 0;     // tensors (modules or parameters)
    int64_t parameters = 0;  // trainable elements
  };
  std::vector<Pattern> patterns;
};

// PEFT 0.21: a name matches a module when it is the module's name or its end after a dot; a regex must match the whole
// name; exclude_modules wins; target_parameters match like names. all-linear = every linear layer but the output head
// (and not the embedding, which is none);
// 3-D experts are not linear layers. `offered` have their ranks (set_ranks). Throws an input error that names the
// recipe key for a pattern that matches nothing that can be adapted, and when nothing at all is selected.
TargetSelection select_targets(const std::vector<LoraModule>& offered, const ModuleSelection& target_modules,
                               const ModuleSelection& exclude_modules,
                               const std::vector<std::string>& target_parameters);

}  // namespace moraine
