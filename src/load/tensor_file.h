// Small safetensors files as torch tensors: adapters, token files, results. Base weights go through load/plan instead.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "formats/safetensors.h"

namespace moraine {

// The tensor of `entry`, on the CPU, in its stored dtype.
at::Tensor read_tensor(const SafetensorsHeader& header, const SafetensorsEntry& entry);

// Writes CPU or device tensors of any torch dtype that the format has, atomically.
void write_tensors(const std::filesystem::path& path, const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                   const std::map<std::string, std::string>& metadata = {});

}  // namespace moraine
