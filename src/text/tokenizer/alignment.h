// Which bytes of a source text the bytes of a rewritten text came from.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace moraine {

// Rewritten bytes [begin, end) stand for source bytes [source_begin, source_end).
struct Edit {
  size_t begin, end;
  size_t source_begin, source_end;
};

// A list of edits in order; between them text and source are equal byte for byte.
class Alignment {
 public:
  void clear() { edits_.clear(); }
  bool empty() const { return edits_.empty(); }
  // begin must not lie before the end of the last edit; an edit is never empty in the rewritten text.
  void add(const Edit& edit) { edits_.push_back(edit); }

  // The source bytes of the rewritten bytes [begin, end). Bytes inside an edit stand for the edit's whole source.
  std::pair<size_t, size_t> to_source(size_t begin, size_t end) const {
    if (edits_.empty()) return {begin, end};
    const Edit* first = last_from(begin);
    const Edit* last = end > begin ? last_from(end - 1) : first;
    size_t source_begin = begin, source_end = end;
    if (first) source_begin = begin < first->end ? first->source_begin : first->source_end + (begin - first->end);
    if (last) source_end = end <= last->end ? last->source_end : last->source_end + (end - last->end);
    return {source_begin, std::max(source_begin, source_end)};
  }

 private:
  // The last edit that begins at or before `at`, or null.
  const Edit* last_from(size_t at) const {
    auto after =
        std::upper_bound(edits_.begin(), edits_.end(), at, [](size_t value, const Edit& e) { return value < e.begin; });
    return after == edits_.begin() ? nullptr : &*(after - 1);
  }

  std::vector<Edit> edits_;
};

}  // namespace moraine
