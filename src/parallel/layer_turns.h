// The order in which a pass takes the layers' weights: pass.cpp walks it with weights, plans with their sizes alone.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace moraine {

struct LayerTurn {
  int64_t layer = 0;
  std::optional<int64_t> next = {};  // the layer whose weights are gathered while this one runs
};

// All layers, first to last.
inline std::vector<LayerTurn> forward_turns(int64_t num_layers) {
  std::vector<LayerTurn> turns;
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    if (layer > 0) turns.back().next = layer;
    turns.push_back({layer});
  }
  return turns;
}

// Back from the last layer to the first one that is trained.
inline std::vector<LayerTurn> backward_turns(int64_t num_layers, int64_t first_trained) {
  std::vector<LayerTurn> turns;
  for (int64_t layer = num_layers - 1; layer >= first_trained; --layer) {
    if (!turns.empty()) turns.back().next = layer;
    turns.push_back({layer});
  }
  return turns;
}

}  // namespace moraine
