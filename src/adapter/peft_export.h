// Writes the adapter as PEFT does: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "adapter/adapter_state.h"
#include "base/json.h"
#include "config/lora_config.h"
#include "distributed/collectives/process_group.h"

namespace moraine {

enum class AdapterPart { kValues, kGrads };

// Every tensor of the adapter under PEFT's name and in PEFT's layout, fp32 on the CPU, on rank 0 of `ep`; nothing on
// its other ranks. All ranks of that ep group must call this: experts' factors are gathered, one tensor at a time, and
// placed by expert id.
std::vector<std::pair<std::string, at::Tensor>> peft_tensors(const AdapterState& state, AdapterPart part,
                                                             ProcessGroup& ep);

// What rank 0 has written and read back.
struct WrittenAdapter {
  int64_t tensors = 0, elements = 0;
  uint64_t bytes = 0;                    // of adapter_model.safetensors
  std::string xxh3;                      // of that file: hash_file
  int64_t lora_b = 0;                    // tensors, with the embedding's lora_A, which begins as zero instead
  std::vector<std::string> zero_b = {};  // those of them that are all zero: they change nothing

  OrderedJson to_json() const;
};

// Rank 0 of `ep` writes the files into `folder`, tensor by tensor as they are gathered, reads the tensors back and
// compares: throws a run error when they differ, or are not as many elements as `state` has. All ranks of that ep group
// must call this, and only one ep group. Nothing is in the result of the other ranks.
WrittenAdapter write_adapter_files(const AdapterState& state, const LoraConfig& config,
                                   const std::filesystem::path& folder, ProcessGroup& ep);

// The same, `folder` whole or not at all.
WrittenAdapter export_adapter(const AdapterState& state, const LoraConfig& config, const std::filesystem::path& folder,
                              ProcessGroup& ep);

// A warning that names trained tensors whose lora_B is all zero, if there are any.
void warn_of_zero_b(const WrittenAdapter& written, const std::filesystem::path& folder);

}  // namespace moraine
