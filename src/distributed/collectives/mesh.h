// How the ranks of a world are laid out: world = ep × ep_fsdp × replicate (DESIGN.md, "Ranks"). Pure arithmetic:
// nothing here talks to another rank.
//
//   rank = (replicate_index · ep_fsdp + ep_fsdp_index) · ep + ep_index
//
// EP ranks are neighbours (the same node first), because tokens cross the EP group in every layer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moraine {

// What the recipe's `mesh` section asks for; nullopt = auto.
struct MeshRequest {
  int64_t ep = 1;
  std::optional<int64_t> fsdp = {}, replicate = {};
};

struct MeshCoordinates {
  int64_t replicate = 0, ep_fsdp = 0, ep = 0;
  friend bool operator==(const MeshCoordinates&, const MeshCoordinates&) = default;
};

// The groups that ranks form. Each axis splits the world into groups of equal size; a rank is in one of each.
enum class MeshAxis {
  kWorld,        // all ranks
  kEp,           // ranks that together hold every expert once: tokens cross this group
  kEpFsdp,       // ranks of one replica with the same experts: expert images are sharded over this group
  kFsdp,         // ranks that dense and root images are sharded over
  kReplicate,    // ranks at the same place of different replicas
  kExpertPeers,  // all ranks with the same experts (ep_fsdp × replicate): gradients of their adapters are summed over
                 // it
};
inline constexpr MeshAxis kMeshAxes[] = {MeshAxis::kWorld, MeshAxis::kEp,        MeshAxis::kEpFsdp,
                                         MeshAxis::kFsdp,  MeshAxis::kReplicate, MeshAxis::kExpertPeers};
const char* mesh_axis_name(MeshAxis axis);

struct Mesh {
  int64_t ep = 1, ep_fsdp = 1, replicate = 1;
  int64_t fsdp = 1;  // divides ep · ep_fsdp

  // Throws input errors that name the key and what would fit.
  static Mesh make(int64_t world_size, const MeshRequest& request);

  int64_t world_size() const { return ep * ep_fsdp * replicate; }
  // Ranks of one replica: one whole copy of the model.
  int64_t replica_size() const { return ep * ep_fsdp; }

  MeshCoordinates coordinates(int64_t rank) const;
  int64_t rank_at(const MeshCoordinates& at) const;

  // The ranks of `rank`'s group along `axis`, ascending; `rank` is one of them.
  std::vector<int64_t> group(MeshAxis axis, int64_t rank) const;
  // The place of `rank` in group(axis, rank).
  int64_t group_rank(MeshAxis axis, int64_t rank) const;
  int64_t group_size(MeshAxis axis) const;

  // Whether no EP group crosses nodes of `local_world_size` ranks each: token traffic then stays inside nodes.
  bool ep_inside_nodes(int64_t local_world_size) const;

  // "4 ranks = ep 2 × ep_fsdp 2 × replicate 1, fsdp 4".
  std::string describe() const;

  friend bool operator==(const Mesh&, const Mesh&) = default;
};

// The groups of a run (distributed/collectives/mesh_groups), one for each purpose.
enum class MeshPurpose { kWorld, kTokens, kDenseGather, kExpertGather, kExpertPeers, kEp, kEpFsdp };
struct MeshGroupSpec {
  MeshPurpose purpose;
  const char* name;
  MeshAxis axis;
};
inline constexpr MeshGroupSpec kMeshGroups[] = {
    {MeshPurpose::kWorld, "world", MeshAxis::kWorld},
    {MeshPurpose::kTokens, "tokens", MeshAxis::kEp},
    {MeshPurpose::kDenseGather, "dense_gather", MeshAxis::kFsdp},
    {MeshPurpose::kExpertGather, "expert_gather", MeshAxis::kEpFsdp},
    {MeshPurpose::kExpertPeers, "expert_peers", MeshAxis::kExpertPeers},
    {MeshPurpose::kEp, "ep", MeshAxis::kEp},
    {MeshPurpose::kEpFsdp, "ep_fsdp", MeshAxis::kEpFsdp},
};

// The communicators that rank `rank` of `mesh` needs for kMeshGroups: purposes whose groups have the same ranks share
// one, except that those along ep keep one of their own, so that gathers that run ahead never stand before tokens.
// Groups of one rank need none. Three at most with mesh.fsdp: auto and one replica.
struct MeshCommunicator {
  std::vector<MeshPurpose> purposes;
  std::vector<int64_t> ranks;
};
std::vector<MeshCommunicator> mesh_communicators(const Mesh& mesh, int64_t rank);

// Experts first … first + count - 1.
struct ExpertRange {
  int64_t first = 0, count = 0;
  int64_t end() const { return first + count; }
  friend bool operator==(const ExpertRange&, const ExpertRange&) = default;
};

// The experts of EP rank `ep_index`. They need not divide evenly: the first ranks hold one more. Throws an input error
// when there are more EP ranks than experts.
ExpertRange expert_range(int64_t num_experts, int64_t ep, int64_t ep_index);
// The EP rank that holds `expert`.
int64_t expert_owner(int64_t num_experts, int64_t ep, int64_t expert);

}  // namespace moraine
