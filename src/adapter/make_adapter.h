// The adapter that a recipe asks for.
#pragma once

#include <string>

#include "adapter/open_adapter.h"
#include "config/recipe.h"

namespace moraine {

// The adapter in adapter.init_from, or a new one with PEFT's initial values. Throws input errors that name the recipe key:
// patterns that match nothing, keys that disagree with init_from's adapter_config.json.
OpenedAdapter make_adapter(const ModelLayout& layout, const AdapterConfig& wanted, const std::string& base_model,
                           ExpertRange experts, at::Device device);

}  // namespace moraine
