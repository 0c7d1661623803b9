#include "cli/inspect_facts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/bytes.h"
#include "base/text.h"

namespace moraine {

OrderedJson stored_dtypes(const std::vector<const SafetensorsEntry*>& entries) {
  std::map<std::string, std::pair<int64_t, uint64_t>> sums;
  for (const SafetensorsEntry* entry : entries) {
    auto& [tensors, bytes] = sums[std::string(dtype_name(entry->dtype))];
    tensors += 1;
    bytes += entry->nbytes;
  }
  OrderedJson json = OrderedJson::object();
  for (const auto& [dtype, sum] : sums) json[dtype] = {{"tensors", sum.first}, {"bytes", sum.second}};
  return json;
}

std::string describe_dtypes(const OrderedJson& stored) {
  std::vector<std::string> words;
  for (const auto& [dtype, sum] : stored.items()) {
    words.push_back(fmt::format("{} ({} tensors, {})", dtype, sum["tensors"].get<int64_t>(),
                                format_bytes(sum["bytes"].get<uint64_t>())));
  }
  return join_words(words);
}

std::string fact_table(const std::string& title, const std::vector<std::pair<std::string, std::string>>& lines) {
  size_t width = 0;
  for (const auto& [name, value] : lines) width = std::max(width, name.size());
  std::string text = title + "\n";
  for (const auto& [name, value] : lines) text += fmt::format("  {:<{}}  {}\n", name, width, value);
  return text;
}

std::string text_or(const OrderedJson& value, const char* otherwise) {
  return value.is_null() ? otherwise : value.get<std::string>();
}

}  // namespace moraine
