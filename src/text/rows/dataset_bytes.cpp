#include "text/rows/dataset_bytes.h"

#include <cstring>

#include "base/error.h"

namespace moraine {
namespace {

void append(std::string& bytes, const std::vector<int64_t>& values) {
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int64_t));
}

std::vector<int64_t> take(std::string_view& bytes, size_t count) {
  MORAINE_ASSERT(bytes.size() >= count * sizeof(int64_t), "rows from another rank are whole");
  std::vector<int64_t> values(count);
  if (count > 0) std::memcpy(values.data(), bytes.data(), count * sizeof(int64_t));
  bytes.remove_prefix(count * sizeof(int64_t));
  return values;
}

}  // namespace

std::string dataset_to_bytes(const Dataset& data) {
  std::string bytes;
  append(bytes, {data.dropped, data.truncated, data.skipped, data.rows, data.turns, data.changed_turns,
                 static_cast<int64_t>(data.samples.size())});
  for (const Sample& sample : data.samples) {
    append(bytes, {static_cast<int64_t>(sample.input_ids.size())});
    for (const auto* column : {&sample.input_ids, &sample.labels, &sample.position_ids}) append(bytes, *column);
  }
  return bytes;
}

Dataset dataset_from_bytes(std::string_view bytes) {
  Dataset data;
  const std::vector<int64_t> head = take(bytes, 7);
  data.dropped = head[0];
  data.truncated = head[1];
  data.skipped = head[2];
  data.rows = head[3];
  data.turns = head[4];
  data.changed_turns = head[5];
  data.samples.resize(head[6]);
  for (Sample& sample : data.samples) {
    const size_t length = take(bytes, 1)[0];
    for (auto* column : {&sample.input_ids, &sample.labels, &sample.position_ids}) *column = take(bytes, length);
  }
  return data;
}

}  // namespace moraine
