// What is read of a checkpoint before its weights: config.json and the headers of its files.
#pragma once

#include <filesystem>
#include <string>

#include "config/hf_config.h"
#include "dist/mesh_groups.h"
#include "formats/checkpoint_index.h"

namespace moraine {

struct CheckpointHeaders {
  HfConfig config;
  CheckpointIndex index;
};

// Throws input errors for anything wrong with the folder.
CheckpointHeaders read_headers(const std::filesystem::path& folder);
// The same on all ranks of the world, which must call this; only rank 0 opens the folder.
CheckpointHeaders headers_from_rank0(const std::filesystem::path& folder, MeshGroups& groups);

// 32 hexadecimal digits of config.json and of every tensor's name, dtype, shape and place; not of the weights themselves.
std::string fingerprint(const CheckpointHeaders& headers);

}  // namespace moraine
