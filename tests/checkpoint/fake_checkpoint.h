// Models and checkpoints that exist only in memory, for tests of the plan.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "formats/checkpoint_index.h"
#include "parallel/layer_image.h"

namespace moraine::testing_support {

struct Random {
  std::mt19937_64 engine;
  int64_t between(int64_t lo, int64_t hi) { return lo + static_cast<int64_t>(engine() % (hi - lo + 1)); }
  template <typename T>
  T one_of(std::initializer_list<T> choices) {
    return choices.begin()[between(0, static_cast<int64_t>(choices.size()) - 1)];
  }
};

// Tensors one after another in files of a few tensors each.
struct FakeCheckpoint {
  CheckpointIndex index;
  void add(const std::string& name, const std::vector<int64_t>& shape, DType dtype) {
    if (index.files.empty() || index.files.back().entries.size() == 3) {
      index.files.push_back({"file" + std::to_string(index.files.size()), 64, 64, {}, {}});
    }
    SafetensorsHeader& file = index.files.back();
    SafetensorsEntry entry{name, dtype, shape, file.file_size, num_elements(shape) * dtype_bits(dtype) / 8ull};
    file.file_size += entry.nbytes;
    file.entries.push_back(entry);
    index.tensors[name] = {static_cast<int>(index.files.size()) - 1, entry};
  }
};

struct FakeModel {
  std::vector<ImageSpec> specs;
  int64_t num_experts = 1;
  FakeCheckpoint checkpoint;
};

// A root image and one or two layers with random shapes; experts fused or a tensor each, as floats (converted or not),
// FP8 with block scales, or packed FP4 with scales.
FakeModel random_model(Random& random);

}  // namespace moraine::testing_support
