#include "parallel/placement.h"

#include "base/error.h"

namespace moraine {

MeshAxis shard_axis(ImageKind kind) { return kind == ImageKind::kExperts ? MeshAxis::kEpFsdp : MeshAxis::kFsdp; }

bool is_offloaded(ImageKind kind, int64_t shards, Offload offload) {
  const bool experts = kind == ImageKind::kExperts;
  const bool offloaded = experts ? offload != Offload::kNone : kind == ImageKind::kDense && offload == Offload::kAll;
  if (!offloaded || shards == 1) return offloaded;
  throw input_error(
      "mesh.offload",
      fmt::format("{} are sharded over {} ranks, and sharded weights are not offloaded",
                  experts ? "experts" : "other weights", shards),
      experts ? "set mesh.ep to the ranks of a replica, or use none" : "set mesh.fsdp: 1, or use experts");
}

Placement::Placement(const std::vector<ImageSpec>& specs, int64_t num_experts, const Mesh& mesh)
    : specs_(specs), num_experts_(num_experts), mesh_(mesh), laid_out_(specs_.size()) {
  experts_of(0);
  for (size_t i = 0; i < specs_.size(); ++i) laid_out_[i].resize(specs_[i].kind == ImageKind::kExperts ? mesh.ep : 1);
}

ExpertRange Placement::experts_of(int64_t rank) const {
  return expert_range(num_experts_, mesh_.ep, mesh_.group_rank(MeshAxis::kEp, rank));
}

const LayerImage& Placement::image(size_t image, int64_t rank) const {
  const ImageSpec& spec = specs_[image];
  const bool is_experts = spec.kind == ImageKind::kExperts;
  LayerImage& laid_out = laid_out_[image][is_experts ? mesh_.group_rank(MeshAxis::kEp, rank) : 0];
  if (laid_out.name.empty()) laid_out = lay_out_image(spec, experts_of(rank), mesh_.group_size(shard_axis(spec.kind)));
  return laid_out;
}

std::vector<ShardPlan> Placement::shards_of(int64_t rank) const {
  std::vector<ShardPlan> shards;
  for (size_t i = 0; i < specs_.size(); ++i) {
    const MeshAxis axis = shard_axis(specs_[i].kind);
    const LayerImage& laid_out = image(i, rank);
    shards.push_back({&laid_out, shard_of_image(laid_out, mesh_.group_size(axis), mesh_.group_rank(axis, rank))});
  }
  return shards;
}

}  // namespace moraine
