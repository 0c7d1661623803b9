// Reads a PEFT adapter folder.
#pragma once

#include <filesystem>

#include "adapter/adapter_state.h"
#include "config/lora_config.h"

namespace moraine {

// Fills `state` (laid out for the adapter's own targets) from FOLDER/adapter_model.safetensors; what is written of it later has the
// names found there (PeftClass). Throws an input error that
// names file and tensor: missing, unexpected or wrong-shaped tensors, other dtypes than F32, BF16, F16.
void import_adapter(AdapterState& state, const std::filesystem::path& folder);

}  // namespace moraine
