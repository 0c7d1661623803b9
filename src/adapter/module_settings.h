// PEFT's settings of single modules: rank_pattern, alpha_pattern, use_rslora, layers_to_transform.
#pragma once

#include <string>
#include <vector>

#include "adapter/peft_layout.h"
#include "config/lora_config.h"

namespace moraine {

// Gives each of `modules`, named as the configuration's patterns mean them, the r, lora_alpha and scaling that PEFT
// gives it, and the factors that adapter.experts says. Throws an input error that names the pattern's key for one that
// is no regular expression.
void set_ranks(std::vector<LoraModule>& modules, const LoraConfig& config);

// Takes the keys of patterns that match none of `modules` (named likewise) out of `config`: "rank_pattern 'w1'".
std::vector<std::string> take_unmatched_patterns(LoraConfig& config, const std::vector<LoraModule>& modules);

// `config` with the r, lora_alpha and patterns that give each of `modules` the r and scaling it has, whatever `config`
// said of them, and without use_rslora. r and lora_alpha are those of the experts, if there are any.
LoraConfig with_ranks_of(LoraConfig config, const std::vector<LoraModule>& modules);

// Of `selected`, the modules that `config` targets by their names alone (named as ours), those in the layers of
// layers_to_transform.
std::vector<LoraModule> in_transformed_layers(const LoraConfig& config, std::vector<LoraModule> selected,
                                              PeftClass peft_class);

}  // namespace moraine
