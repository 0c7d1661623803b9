// PEFT's adapter_config.json, read and written.
#pragma once

#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "config/recipe.h"

namespace moraine {

// Why whole weights are not trained, and what does instead.
inline constexpr const char* kNoModulesToSave =
    "whole weights are not trained: give them adapters, linear layers by target_modules and routers by "
    "target_parameters [mlp.gate.weight]";

// What an adapter folder says about itself. Field names are PEFT's.
struct LoraConfig {
  int64_t r = 8;
  double lora_alpha = 16;
  ModuleSelection target_modules;
  ModuleSelection exclude_modules;
  std::vector<std::string> target_parameters;
  std::string base_model_name_or_path;
  std::string peft_version;  // "" when the file has none; lora_config_to_json then writes the version it follows
  double lora_dropout = 0;
  // adapter.experts, which PEFT does not know: adapter_model.safetensors says it (adapter/shared_outer.h).
  ExpertFactors experts = ExpertFactors::kEach;
  bool ensure_weight_tying = false;  // read alone: of a tied head and embedding one adapter for both

  // What makes r, lora_alpha or the targets other than they are written above: adapter/module_settings.
  bool use_rslora = false;
  PatternMap<int64_t> rank_pattern;
  PatternMap<double> alpha_pattern;
  std::vector<int64_t> layers_to_transform;  // empty: all

  // What the product of a module with this rank and lora_alpha is multiplied by.
  double scaling(int64_t of_r, double of_alpha) const {
    return of_alpha / (use_rslora ? std::sqrt(static_cast<double>(of_r)) : static_cast<double>(of_r));
  }
  double scaling() const { return scaling(r, lora_alpha); }
};

// Reads FOLDER/adapter_config.json. Throws an input error that names the key for what is not honoured: peft_type other
// than LORA, DoRA, bias, lora_bias, modules_to_save, layers_pattern other than "layers", fan_in_fan_out,
// trainable_token_indices, any other key that is switched on and not known to leave the numbers alone, an
// init_lora_weights that changes the base weights, lora_dropout ≠ 0 with target_parameters, and a PEFT older than 0.18
// together with target_parameters.
LoraConfig read_lora_config(const std::filesystem::path& folder);

// Whether that PEFT, 0.18 to 0.19.0, takes the in and out of 3-D experts the other way round: its lora_A is the
// transpose of what is lora_B since, and its lora_B that of lora_A.
bool has_swapped_experts(const std::string& peft_version);
inline constexpr const char* kSwappedPeftVersion = "0.19.0";  // is written for it

// The text of an adapter_config.json that plain PEFT 0.21 reads. `config` names its modules one by one: it is without
// layers_to_transform (asserted).
std::string lora_config_to_json(const LoraConfig& config);

}  // namespace moraine
