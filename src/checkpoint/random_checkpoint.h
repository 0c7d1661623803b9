// A checkpoint of random weights in the hub's layout, streamed to disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace moraine {

struct RandomCheckpointOptions {
  std::string dtype;  // bfloat16 | float32; empty: what the config says
  uint64_t seed = 0;
  uint64_t max_file_bytes = 4'000'000'000;
};

struct RandomCheckpoint {
  uint64_t tensors = 0, parameters = 0, bytes = 0, files = 0;
  std::string dtype;
};

// Writes `folder` (missing or empty) whole or not at all: config.json with its dtype set, and a tensor for each that
// the config implies, filled as random_values.h says; element i of a tensor depends only on seed, the tensor's name and
// i. Throws input errors for the config and the folder, a run error when the disk is full.
RandomCheckpoint write_random_checkpoint(const std::filesystem::path& config_json, const std::filesystem::path& folder,
                                         const RandomCheckpointOptions& options);

}  // namespace moraine
