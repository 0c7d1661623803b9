// A PEFT adapter folder opened for a model: its configuration and its tensors.
#pragma once

#include <filesystem>
#include <vector>

#include "adapter/adapter_state.h"
#include "adapter/target_selection.h"
#include "config/lora_config.h"

namespace moraine {

struct OpenedAdapter {
  LoraConfig config;
  AdapterState state;
  std::vector<TargetSelection::Pattern> patterns;  // what each target of the config matched
};

// Throws input errors that name the adapter's file: not honoured options, targets that this model does not have,
// tensors that are missing, unexpected or of another shape. As in PEFT a target may match nothing while another one
// does.
OpenedAdapter open_adapter(const ModelLayout& layout, const std::filesystem::path& folder, ExpertRange experts,
                           at::Device device);

}  // namespace moraine
