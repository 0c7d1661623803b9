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

// The keys of the factors of `module`, which is called `name` in the file.
inline PeftNames factor_keys(const LoraModule& module, const std::string& name) {
  const std::string stem = kPeftPrefix + name + (module.is_embedding() ? ".lora_embedding_" : ".lora_");
  const std::string end = module.is_embedding() ? "" : ".weight";
  return {stem + "A" + end, stem + "B" + end};
}

}  // namespace moraine
