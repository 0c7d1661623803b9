#include "checkpoint/shared_reads.h"

#include <algorithm>

#include "base/error.h"

namespace moraine {

std::vector<SharedRead> merge_plans(const std::vector<LoadPlan>& plans, uint64_t max_nbytes) {
  struct Source {
    const ReadRange* range;
    int64_t member;
  };
  std::vector<Source> sources;
  for (size_t member = 0; member < plans.size(); ++member)
    for (const ReadRange& range : plans[member].reads) sources.push_back({&range, static_cast<int64_t>(member)});
  std::stable_sort(sources.begin(), sources.end(),
                   [](const Source& a, const Source& b) { return a.range->from < b.range->from; });

  std::vector<SharedRead> reads;
  for (size_t begin = 0, end = 0; begin < sources.size(); begin = end) {
    const FileRange& from = sources[begin].range->from;
    while (end < sources.size() && sources[end].range->from == from) ++end;
    MORAINE_ASSERT(end == sources.size() || sources[end].range->from.file != from.file ||
                       sources[end].range->from.offset >= from.end(),
                   "ranges of two ranks are equal or disjoint: " + sources[begin].range->tensor);
    const uint64_t elements = max_nbytes * 8 / dtype_bits(from.wanted);
    const uint64_t step = from.stored == DType::kF4 ? elements / 2 : elements * dtype_bits(from.stored) / 8;
    for (uint64_t done = 0; done < from.nbytes; done += step) {
      SharedRead read{from.piece(done, std::min(step, from.nbytes - done)), {}, sources[begin].range->tensor};
      for (size_t i = begin; i < end; ++i) {
        const ReadRange& range = *sources[i].range;
        read.targets.push_back({sources[i].member, range.image, range.shard_offset + from.landed(done)});
      }
      reads.push_back(std::move(read));
    }
  }
  return reads;
}

}  // namespace moraine
