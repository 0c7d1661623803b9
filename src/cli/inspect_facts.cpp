#include "cli/inspect_facts.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"
#include "base/text.h"

namespace moraine {

OrderedJson sums_json(const std::map<std::string, TensorSum>& sums) {
  OrderedJson json = OrderedJson::object();
  for (const auto& [word, sum] : sums) json[word] = {{"tensors", sum.tensors}, {"bytes", sum.bytes}};
  return json;
}

OrderedJson stored_dtypes(const std::vector<const SafetensorsEntry*>& entries) {
  std::map<std::string, TensorSum> sums;
  for (const SafetensorsEntry* entry : entries) {
    TensorSum& sum = sums[std::string(dtype_name(entry->dtype))];
    sum.tensors += 1;
    sum.bytes += entry->nbytes;
  }
  return sums_json(sums);
}

std::string describe_sums(const OrderedJson& sums) {
  std::vector<std::string> words;
  for (const auto& [word, sum] : sums.items()) {
    const int64_t tensors = sum["tensors"].get<int64_t>();
    words.push_back(fmt::format("{} ({} tensor{}, {})", word, tensors, tensors == 1 ? "" : "s",
                                format_bytes(sum["bytes"].get<uint64_t>())));
  }
  return join_words(words);
}

std::string fact_table(const std::string& title, const std::vector<std::pair<std::string, std::string>>& lines) {
  constexpr size_t kLongestFact = 8000;
  size_t width = 0;
  for (const auto& [name, value] : lines) width = std::max(width, name.size());
  std::string text = one_line(title, kLongestFact) + "\n";
  for (const auto& [name, value] : lines)
    text += fmt::format("  {:<{}}  {}\n", name, width, one_line(value, kLongestFact));
  return text;
}

std::string text_or(const OrderedJson& value, const char* otherwise) {
  return value.is_null() ? otherwise : value.get<std::string>();
}

}  // namespace moraine
