// The keys of an adapter_model.safetensors.
#pragma once

#include <string>

#include "adapter/peft_layout.h"

namespace moraine {

// Before the name of an adapted module.
inline constexpr const char* kPeftPrefix = "base_model.model.";
// Before "layers.3…" in the names of a text class, which are ours, and of a multimodal class.
inline constexpr const char* kTextStem = "model.";
inline constexpr const char* kMultimodalStem = "model.language_model.";

// The keys of the factors of `module`, a whole name.
inline PeftNames factor_keys(const std::string& module) {
  return {kPeftPrefix + module + ".lora_A.weight", kPeftPrefix + module + ".lora_B.weight"};
}

}  // namespace moraine
