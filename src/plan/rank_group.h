// Which ranks exchange something along an axis of the mesh, and how many bytes one of them receives then.
#pragma once

#include <algorithm>
#include <cstdint>

#include "adapter/adapter_state.h"
#include "plan/planned_run.h"

namespace moraine {

struct NetworkBytes {
  double within_node = 0, between_nodes = 0;
  double total() const { return within_node + between_nodes; }
  NetworkBytes& operator+=(const NetworkBytes& more) {
    within_node += more.within_node, between_nodes += more.between_nodes;
    return *this;
  }
};

// A group of ranks along an axis: every step-th rank from the first on.
class RankGroup {
 public:
  RankGroup(const PlannedRun& run, MeshAxis axis, int64_t rank)
      : run_(run), rank_(rank), index_(run.mesh.group_rank(axis, rank)), size_(run.mesh.group_size(axis)) {
    const bool across = axis == MeshAxis::kEpFsdp || axis == MeshAxis::kExpertPeers;
    step_ = across ? run.mesh.ep : 1;
    first_ = rank - index_ * step_;
  }
  int64_t size() const { return size_; }
  int64_t rank_at(int64_t index) const { return first_ + index * step_; }

  // Ranks of the group on this rank's node, itself left out.
  int64_t node_peers() const {
    const int64_t begin = run_.node_of(rank_) * run_.ranks_per_node, end = begin + run_.ranks_per_node;
    auto before = [&](int64_t limit) {  // members below `limit`
      return std::clamp<int64_t>(limit <= first_ ? 0 : (limit - first_ + step_ - 1) / step_, 0, size_);
    };
    return before(end) - before(begin) - 1;
  }
  // `bytes` from each other rank.
  NetworkBytes from_each(double bytes) const {
    const int64_t near = node_peers();
    return {near * bytes, (size_ - 1 - near) * bytes};
  }
  // All parts but one's own, handed on by the rank before.
  NetworkBytes all_gather(double part_bytes) const {
    if (size_ == 1) return {};
    const int64_t before = rank_at((index_ + size_ - 1) % size_);
    const double bytes = (size_ - 1) * part_bytes;
    return run_.node_of(before) == run_.node_of(rank_) ? NetworkBytes{bytes, 0} : NetworkBytes{0, bytes};
  }
  // The sum of `elements` of a gradient on all ranks.
  NetworkBytes all_reduce(int64_t elements) const {
    if (size_ == 1 || elements == 0) return {};
    const double part =
        static_cast<double>(section_part_size(elements, size_)) * c10::elementSize(gradient_dtype(run_.device));
    NetworkBytes bytes = from_each(part);
    return bytes += all_gather(part);
  }

 private:
  const PlannedRun& run_;
  int64_t rank_, index_, size_, step_ = 1, first_ = 0;
};

}  // namespace moraine
