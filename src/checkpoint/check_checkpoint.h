// What config.json implies against what the files' headers say, and headers made up from config.json alone.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "formats/checkpoint_index.h"
#include "parallel/layer_image.h"

namespace moraine {

// A tensor of the checkpoint that is not loaded, and why.
struct SkippedTensor {
  std::string tensor, reason;
};

// Compares the whole checkpoint's headers with what config.json implies, before a weight is read: the same on every
// rank. Throws an input error that names tensor and file for a tensor that is missing, has another shape, has a dtype
// that cannot be used, or that no image uses and `why_skipped` does not explain. Returns what is left out, by name.
std::vector<SkippedTensor> check_checkpoint(
    const std::vector<ImageSpec>& specs, const CheckpointIndex& index,
    const std::function<std::optional<std::string>(const std::string& tensor)>& why_skipped);

// A checkpoint's headers as the hub would have them: the tensors of `specs` one after another, in files of about
// `max_file_bytes`. For planning without weights and for writing new checkpoints.
CheckpointIndex assumed_index(const std::vector<ImageSpec>& specs, uint64_t max_file_bytes = uint64_t{5} << 30);

}  // namespace moraine
