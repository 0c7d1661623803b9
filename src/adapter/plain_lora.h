// PEFT's per-module settings (rank_pattern, alpha_pattern, use_rslora, layers_to_transform) as a plain configuration,
// where they mean one.
#pragma once

#include <string>
#include <vector>

#include "adapter/peft_layout.h"
#include "config/lora_config.h"

namespace moraine {

// Of `selected`, the modules that `config` targets by their names alone (named as ours), those in the layers of
// layers_to_transform.
std::vector<LoraModule> in_transformed_layers(const LoraConfig& config, std::vector<LoraModule> selected,
                                              PeftClass peft_class);

// `config` with the one r and lora_alpha that its patterns and use_rslora give to all of `modules`, and without them.
// Throws an input error that names `where` and the key where modules would differ. Keys of patterns that match no
// module are added to `unmatched`.
LoraConfig plain_lora(LoraConfig config, const std::vector<LoraModule>& modules, PeftClass peft_class,
                      const std::string& where, std::vector<std::string>& unmatched);

}  // namespace moraine
