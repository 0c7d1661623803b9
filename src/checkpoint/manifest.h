// Hashes of a checkpoint's files, written once and checked later: finds files that changed without anyone noticing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace moraine {

inline constexpr char kManifestName[] =
    "moraine-hashes.json";  // in the checkpoint's folder, unless another place is named

struct ManifestTotals {
  uint64_t files = 0, tensors = 0, bytes = 0;
};

// Hashes (XXH3-128) every file of `folder`: of safetensors files each tensor and the header, of others the whole;
// hidden files, subfolders and `manifest` itself are left out. Writes `manifest`, whole or not at all. Throws input
// errors for a folder that is no checkpoint.
ManifestTotals write_manifest(const std::filesystem::path& folder, const std::filesystem::path& manifest,
                              int num_threads);

// Compares `folder` with what `manifest` says, without trusting a header. Returns one line a difference, by file:
// "FILE: tensor NAME differs", "FILE: the header differs", "FILE: is missing", "FILE: has 10 bytes, not 20". Files that
// the manifest does not know are no difference. Throws an input error when there is no such manifest or it is none.
std::vector<std::string> check_manifest(const std::filesystem::path& folder, const std::filesystem::path& manifest,
                                        int num_threads, ManifestTotals& totals);

}  // namespace moraine
