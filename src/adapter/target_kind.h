// What target_modules names, linear layers, and what target_parameters does: experts and routers.
#pragma once

#include <string>

#include "models/model_layout.h"

namespace moraine {

// A router is no linear layer for PEFT: its adapter is one of its parameter, "model.layers.0.mlp.gate.weight".
inline bool is_router(const LoraModule& module) { return module.num_experts == 0 && module.name.ends_with(".weight"); }

inline bool is_parameter(const LoraModule& module) { return module.num_experts > 0 || is_router(module); }

// Whose adapter's tensors PEFT stores under the module's name: of a parameter its module, without the parameter.
inline std::string adapted_name(const LoraModule& module) {
  return is_parameter(module) ? module.name.substr(0, module.name.rfind('.')) : module.name;
}

}  // namespace moraine
