// An adapter folder written in another layout: the same numbers under other names.
#pragma once

#include <cstdint>
#include <filesystem>

#include "adapter/open_adapter.h"
#include "adapter/peft_import.h"

namespace moraine {

enum class AdapterFormat {
  kPeft,         // A and B of all experts in a tensor each: target_parameters of PEFT 0.19.1 or later
  kPeft0190,     // the same of PEFT 0.18 to 0.19.0: has_swapped_experts
  kPerExpert,    // adapter/per_expert_layout
  kSharedOuter,  // adapter/shared_outer
};

struct ConvertedAdapter {
  uint64_t tensors = 0, bytes = 0;
};

// Writes `out` (missing or empty) whole or not at all: the adapter in `folder`, of which `selection` was read
// (read_adapter_selection), its factors in fp32. No more of them is in memory than the largest tensor of either folder
// and 64 MiB. Throws input errors as PeftWeights does and for a used `out`, run errors where it cannot be written.
ConvertedAdapter convert_adapter(const ModelLayout& layout, const std::filesystem::path& folder,
                                 const AdapterSelection& selection, AdapterFormat format,
                                 const std::filesystem::path& out);

// The same of `factors`; `config` is that of PEFT's own layout.
ConvertedAdapter write_converted(const ModelLayout& layout, const AdapterFactors& factors, const LoraConfig& config,
                                 AdapterFormat format, const std::filesystem::path& out);

}  // namespace moraine
