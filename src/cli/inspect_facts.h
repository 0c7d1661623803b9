// What inspect's commands share: facts as JSON, and how they are shown.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "formats/safetensors.h"

namespace moraine {

struct TensorSum {
  int64_t tensors = 0;
  uint64_t bytes = 0;
};
// By a word (a dtype, a reason): {"BF16": {"tensors", "bytes"}}.
OrderedJson sums_json(const std::map<std::string, TensorSum>& sums);
OrderedJson stored_dtypes(const std::vector<const SafetensorsEntry*>& entries);
// Such sums in words.
std::string describe_sums(const OrderedJson& sums);

// A title and lines of `name  value`; what they quote is escaped and bounded as in log lines.
std::string fact_table(const std::string& title, const std::vector<std::pair<std::string, std::string>>& lines);

// The text, or `otherwise` for null.
std::string text_or(const OrderedJson& value, const char* otherwise);

}  // namespace moraine
