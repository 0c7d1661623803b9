// What is read of a checkpoint before its weights: config.json and the headers of its files.
#pragma once

#include <string>

#include "config/hf_config.h"
#include "formats/checkpoint_index.h"

namespace moraine {

struct CheckpointHeaders {
  HfConfig config;
  CheckpointIndex index;
};

// As text and back, for ranks that do not see the folder.
std::string headers_to_text(const CheckpointHeaders& headers);
CheckpointHeaders headers_from_text(const std::string& text);

// 32 hexadecimal digits of config.json and of every tensor's name, dtype, shape and place; not of the weights
// themselves.
std::string fingerprint(const CheckpointHeaders& headers);

}  // namespace moraine
