// adapter.experts: shared_outer, one A of gate and up and one B of down for all experts of a layer, and the layout that
// servers read such adapters in.
//
// PEFT's layouts and the per-expert one have these factors as often as there are experts; the file's metadata says that
// they are one. The layout of servers is the per-expert one with the experts' matrices of a projection in one tensor: A
// [E, R, I] and B [E, O, R], where E is 1 for a factor that all share, under w1 (gate), w3 (up) and w2 (down).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "adapter/per_expert_layout.h"
#include "base/error.h"
#include "config/choices.h"
#include "formats/safetensors.h"

namespace moraine {

// Says of each expert parameter which factor its adapter shares.
void set_expert_factors(std::vector<LoraModule>& modules, ExpertFactors experts);
// Whether any of them shares one.
ExpertFactors expert_factors_of(const std::vector<LoraModule>& modules);

// The metadata of an adapter_model.safetensors, and what they say of one.
std::map<std::string, std::string> adapter_metadata(ExpertFactors experts);
// Of any layout.
ExpertFactors expert_factors_of(const SafetensorsHeader& weights);

// The error of a tensor that should be the same for all experts and is not.
Error not_shared(const std::string& file, const std::string& tensor);

// The names of an expert parameter's tensors in the servers' layout, one per projection: "….mlp.experts.w1".
std::vector<std::string> stacked_names(const PerExpertModule& module);
// Whether an adapter's tensors are in that layout.
bool has_stacked_experts(const SafetensorsHeader& weights);

}  // namespace moraine
