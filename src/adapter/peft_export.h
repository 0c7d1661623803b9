// Writes the adapter as PEFT does: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <filesystem>
#include <utility>

#include "adapter/adapter_state.h"
#include "config/lora_config.h"
#include "distributed/collectives/process_group.h"

namespace moraine {

enum class AdapterPart { kValues, kGrads };

// Every tensor of the adapter under PEFT's name and in PEFT's layout, fp32 on the CPU, on rank 0 of `ep`; nothing on
// its other ranks. All ranks of that ep group must call this: experts' factors are gathered, one tensor at a time, and
// placed by expert id.
std::vector<std::pair<std::string, at::Tensor>> peft_tensors(const AdapterState& state, AdapterPart part,
                                                             ProcessGroup& ep);

// Rank 0 of `ep` writes the files into `folder`, tensor by tensor as they are gathered, reads the tensors back and
// compares: throws a run error when they differ. All ranks of that ep group must call this, and only one ep group.
void write_adapter_files(const AdapterState& state, const LoraConfig& config, const std::filesystem::path& folder,
                         ProcessGroup& ep);

// The same, `folder` whole or not at all.
void export_adapter(const AdapterState& state, const LoraConfig& config, const std::filesystem::path& folder,
                    ProcessGroup& ep);

}  // namespace moraine
