// How PEFT names and lays out adapter tensors on disk (PEFT >= 0.19.1).
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "models/model.h"

namespace moraine {

// As which class PEFT wrapped the model. The names of a multimodal class have "model.language_model." where those of
// its text class, which are ours, have "model.".
enum class PeftClass { kText, kMultimodal };

// Told from the names in an adapter_model.safetensors.
PeftClass peft_class_of(const SafetensorsHeader& weights);
// "model.layers.3.mlp…" as that class has it.
std::string module_name_in(PeftClass peft_class, const std::string& module);

// The module that a tensor of an adapter_model.safetensors adapts, as PEFT names it (of experts their module, without
// its parameter): "" for a tensor that is none of an adapter's factors.
std::string adapted_module(const std::string& tensor);

struct PeftNames {
  std::string lora_a, lora_b;  // keys of adapter_model.safetensors
};

// The keys of each of `modules` (all modules of the adapter, in the model's order). Adapted parameters of one experts
// module are nested wrappers in the order of its parameters: the last one is outermost ("…mlp.experts.lora_A.weight"),
// each one before it is a ".base_layer" deeper.
std::vector<PeftNames> peft_names(const std::vector<LoraModule>& modules, PeftClass peft_class = PeftClass::kText);

// Experts' factors, ours to PEFT's: A [E, R, I] → lora_A [R·E, I], row e·R + ρ (expert-major);
// B [E, O, R] → lora_B [O, R·E], column ρ·E + e (rank-major). E is the number of all experts.
at::Tensor experts_a_to_peft(const at::Tensor& a_ERI);
at::Tensor experts_b_to_peft(const at::Tensor& b_EOR);
// Whether B [E, O, R] is a view of memory in that layout.
bool is_rank_major(const at::Tensor& b_EOR);
at::Tensor experts_a_from_peft(const at::Tensor& lora_a, int64_t num_experts);
at::Tensor experts_b_from_peft(const at::Tensor& lora_b, int64_t num_experts);

}  // namespace moraine
