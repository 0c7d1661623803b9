// The adapter that a recipe asks for.
#pragma once

#include <string>

#include "adapter/open_adapter.h"
#include "config/recipe.h"

namespace moraine {

// What the recipe's adapter is made of: adapter.init_from's, or by the recipe's keys. Throws input errors that name the
// recipe key: patterns that match nothing, keys that disagree with init_from's adapter_config.json.
AdapterSelection select_adapter(const ModelLayout& layout, const AdapterConfig& wanted, const std::string& base_model);

// The same with tensors: the adapter in adapter.init_from, or a new one with PEFT's initial values. Throws input
// errors as select_adapter and open_adapter do.
OpenedAdapter make_adapter(const ModelLayout& layout, const AdapterConfig& wanted, const std::string& base_model,
                           ExpertRange experts, at::Device device);

}  // namespace moraine
