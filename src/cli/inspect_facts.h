// What inspect's commands share: facts as JSON, and how they are shown.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "formats/safetensors.h"

namespace moraine {

// How many tensors and bytes there are of each dtype: {"BF16": {"tensors", "bytes"}}.
OrderedJson stored_dtypes(const std::vector<const SafetensorsEntry*>& entries);
// Those in words.
std::string describe_dtypes(const OrderedJson& stored);

// A title and lines of `name  value`.
std::string fact_table(const std::string& title, const std::vector<std::pair<std::string, std::string>>& lines);

// The text, or `otherwise` for null.
std::string text_or(const OrderedJson& value, const char* otherwise);

}  // namespace moraine
