// Which rank holds what: every image of a model, laid out and cut into shards for a mesh. Pure arithmetic, the same on
// every rank, so each of them knows what all others hold without asking.
#pragma once

#include <cstdint>
#include <vector>

#include "config/choices.h"
#include "distributed/collectives/mesh.h"
#include "parallel/layer_image.h"

namespace moraine {

// The axis that an image of `kind` is sharded over.
MeshAxis shard_axis(ImageKind kind);

// Root, dense and expert images take turns in gather buffers among themselves (see GatherSchedule).
inline int lane_of(ImageKind kind) { return static_cast<int>(kind); }

// Whether mesh.offload says so of images of `kind`, of which a rank holds one of so many shards. The root, which embeds
// and ends every pass, stays on the device. Throws an input error for images that are sharded: they are not offloaded.
bool is_offloaded(ImageKind kind, int64_t shards, Offload offload);

// What one rank holds of one image.
struct ShardPlan {
  const LayerImage* image = nullptr;
  ByteRange shard;
};

class Placement {
 public:
  // `specs`: all images of the model; they outlive the placement. Throws an input error when there are more EP ranks
  // than experts.
  Placement(const std::vector<ImageSpec>& specs, int64_t num_experts, const Mesh& mesh);
  Placement(std::vector<ImageSpec>&& specs, int64_t num_experts, const Mesh& mesh) = delete;

  const Mesh& mesh() const { return mesh_; }
  const std::vector<ImageSpec>& specs() const { return specs_; }
  int64_t num_experts() const { return num_experts_; }
  ExpertRange experts_of(int64_t rank) const;

  // Image number `image` as `rank` uses it: laid out for its experts when asked for the first time. The reference stays
  // valid.
  const LayerImage& image(size_t image, int64_t rank) const;
  // The shards of `rank`, one an image, in the order of the specs.
  std::vector<ShardPlan> shards_of(int64_t rank) const;

 private:
  const std::vector<ImageSpec>& specs_;
  int64_t num_experts_;
  Mesh mesh_;
  mutable std::vector<std::vector<LayerImage>> laid_out_;  // by image, then EP index; empty = not yet
};

}  // namespace moraine
