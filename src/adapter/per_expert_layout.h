// The layout that servers and libraries without adapters of 3-D experts read: each expert's projections are linear
// layers, with 2-D factors of their own. Modules have the names of the checkpoint's tensors.
#pragma once

#include <string>
#include <vector>

#include "adapter/peft_layout.h"
#include "config/lora_config.h"

namespace moraine {

// What a module is in that layout: the checkpoint's matrices, by their names without ".weight". A linear layer is one;
// a parameter of experts has `projections` for each expert, those of an expert one after another. Gate and up have one
// A, and each its rows of B.
struct PerExpertModule {
  std::vector<std::string> matrices;  // none where the family's checkpoints never have a tensor for each expert
  int64_t projections = 1;
};

// Of each of `modules`; a router is a linear layer there. Names are those of a checkpoint with a tensor for each
// expert, with the class's "model." before "layers".
std::vector<PerExpertModule> per_expert_modules(const ModelLayout& layout, PeftClass peft_class,
                                                const std::vector<LoraModule>& modules);

// Throws an input error that names `where` unless each of the modules, `stored` as per_expert_modules says of them, is
// in that layout.
void check_per_expert(const std::vector<LoraModule>& modules, const std::vector<PerExpertModule>& stored,
                      const std::string& where);

// The same names of all linear layers of the decoder layers, adapted ones and those that cannot be.
std::vector<std::string> per_expert_linear_layers(const ModelLayout& layout, PeftClass peft_class);

// Whether an adapter's tensors are in that layout: it has names that only the checkpoint has, and none that only PEFT
// has, or routers without the target_parameters that PEFT has for them. Or in the one that stacks the experts' matrices
// (adapter/shared_outer), whose other names are the same.
bool is_per_expert(const ModelLayout& layout, const SafetensorsHeader& weights, const LoraConfig& config);

}  // namespace moraine
