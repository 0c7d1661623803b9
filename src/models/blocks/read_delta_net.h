// The keys of config.json from which families with linear attention by the gated delta rule are read.
#pragma once

#include <optional>
#include <vector>

#include "models/blocks/gated_delta_net.h"
#include "models/blocks/read.h"

namespace moraine {

// Of each layer, whether its attention is full: layer_types, else every full_attention_interval-th. `default_interval`
// as in GqaDefaults.
std::vector<bool> full_attention_layers(const HfConfig& text, std::optional<int64_t> default_interval);

// The linear_* keys.
GatedDeltaNet read_delta_net(const HfConfig& text, const Decoder& decoder);

}  // namespace moraine
