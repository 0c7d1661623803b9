#include "text/rows/packing.h"

#include <algorithm>
#include <map>
#include <numeric>

namespace moraine {

std::vector<std::vector<int64_t>> pack_samples(const std::vector<Sample>& samples, int64_t max_length) {
  std::vector<int64_t> by_length(samples.size());
  std::iota(by_length.begin(), by_length.end(), 0);
  const auto length_of = [&](int64_t i) { return static_cast<int64_t>(samples[i].input_ids.size()); };
  std::stable_sort(by_length.begin(), by_length.end(),
                   [&](int64_t a, int64_t b) { return length_of(a) > length_of(b); });

  std::vector<std::vector<int64_t>> rows;
  std::map<int64_t, std::vector<size_t>> rows_by_room;
  for (int64_t sample : by_length) {
    auto fitting = rows_by_room.lower_bound(length_of(sample));
    int64_t room = max_length;
    size_t row = rows.size();
    if (fitting == rows_by_room.end()) {
      rows.emplace_back();
    } else {
      room = fitting->first;
      row = fitting->second.back();
      fitting->second.pop_back();
      if (fitting->second.empty()) rows_by_room.erase(fitting);
    }
    rows[row].push_back(sample);
    if (room > length_of(sample)) rows_by_room[room - length_of(sample)].push_back(row);
  }
  for (auto& row : rows) std::sort(row.begin(), row.end());
  std::sort(rows.begin(), rows.end());
  return rows;
}

std::vector<std::vector<int64_t>> one_sample_a_row(const std::vector<Sample>& samples) {
  std::vector<std::vector<int64_t>> rows;
  for (size_t i = 0; i < samples.size(); ++i) rows.push_back({static_cast<int64_t>(i)});
  return rows;
}

}  // namespace moraine
