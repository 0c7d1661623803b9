// Writes the adapter as PEFT does: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <filesystem>
#include <utility>

#include "adapter/adapter_state.h"
#include "config/lora_config.h"

namespace moraine {

enum class AdapterPart { kValues, kGrads };

// Every tensor of the adapter under PEFT's name and in PEFT's layout, fp32 on the CPU.
std::vector<std::pair<std::string, at::Tensor>> peft_tensors(const AdapterState& state, AdapterPart part);

// Writes `folder` whole or not at all, then reads the tensors back and compares: throws a run error when they differ.
void export_adapter(const AdapterState& state, const LoraConfig& config, const std::filesystem::path& folder);

}  // namespace moraine
