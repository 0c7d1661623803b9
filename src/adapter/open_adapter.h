// A PEFT adapter folder opened for a model: its configuration and its tensors.
#pragma once

#include <filesystem>
#include <vector>

#include "adapter/adapter_state.h"
#include "adapter/target_selection.h"
#include "config/lora_config.h"

namespace moraine {

// What an adapter is made of, before any tensor is allocated.
struct AdapterSelection {
  LoraConfig config;
  TargetSelection targets;
  PeftClass peft_class = PeftClass::kText;  // whose names the config's patterns mean
  std::vector<std::string> unmatched =
      {};  // of a folder's config: targets and patterns that match nothing here, each with its key
};

// What `config` selects among a model's modules, in all layers, with its ranks. Its patterns mean that class's names;
// those selected have ours.
TargetSelection select_targets_as(PeftClass peft_class, const ModelLayout& layout, const LoraConfig& config);
// The same in the layers of layers_to_transform, in whose place `config` then names the modules one by one.
TargetSelection select_in_layers(PeftClass peft_class, const ModelLayout& layout, LoraConfig& config);

// The configuration that PEFT's own layout has of an adapter of `modules`, with their ranks: else like `config`.
LoraConfig config_of_modules(const ModelLayout& layout, PeftClass peft_class, LoraConfig config,
                             std::vector<LoraModule> modules);

struct OpenedAdapter {
  LoraConfig config;
  AdapterState state;
  std::vector<TargetSelection::Pattern> patterns;  // what each target of the config matched
  std::vector<std::string> unmatched = {};         // as in AdapterSelection
};

// One warning that lists `unmatched` of the adapter in `folder`, if there is any. For one rank to call.
void warn_of_unmatched_targets(const std::vector<std::string>& unmatched, const std::filesystem::path& folder);

// What `folder`'s adapter_config.json selects; the configuration is without layers_to_transform, whose modules it then
// names, and without targets and patterns that match nothing: in PEFT one may match nothing while another one does.
// Throws input errors that name the file: options that are not honoured, targets that this model does not have, and
// tensors of adapters of what cannot be adapted here (the output head, a router).
AdapterSelection read_adapter_selection(const ModelLayout& layout, const std::filesystem::path& folder);

// `selection`, which was read of `folder`, with its tensors. Throws input errors that name the adapter's file, also for
// tensors that are missing, unexpected or of another shape.
OpenedAdapter open_selected(const ModelLayout& layout, const std::filesystem::path& folder, AdapterSelection selection,
                            ExpertRange experts, at::Device device);
// Both.
OpenedAdapter open_adapter(const ModelLayout& layout, const std::filesystem::path& folder, ExpertRange experts,
                           at::Device device);

}  // namespace moraine
