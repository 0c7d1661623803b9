#include "distributed/collectives/mesh_groups.h"

#include <fmt/format.h>

#include "base/error.h"
#include "distributed/control/descriptors.h"

namespace moraine {

namespace {

struct PlannedGroup {
  std::unique_ptr<ProcessGroup> MeshGroups::*member;
  const char* name;
  BackendKind kind;
  std::vector<int64_t> ranks;
};

// Where Gloo's own thread finds no descriptor for a connection that another rank opens, it ends the process without a
// word of ours.
void require_descriptors_for(const std::vector<PlannedGroup>& groups, const Control& control) {
  constexpr int64_t kFiles = 16;  // and what else a run opens beside connections
  int64_t to_store = 0, to_peers = 0;
  for (const PlannedGroup& group : groups) {
    if (group.ranks.size() > 1) ++to_store;
    if (group.kind == BackendKind::kGloo) to_peers += static_cast<int64_t>(group.ranks.size()) - 1;
  }
  const WorldInfo& world = control.world();
  const bool serves =
      world.rank == 0 && !world.agent_store;  // then the other ends of all ranks' connections to the store are here
  const int64_t served = serves ? to_store * world.world_size : 0;
  require_descriptors(to_store + to_peers + served + kFiles,
                      fmt::format("rank {} of {}", world.rank, world.world_size));
}

}  // namespace

MeshGroups single_rank_groups() {
  auto self = [] { return std::make_unique<ProcessGroup>(); };
  return {{}, nullptr, self(), self(), self(), self(), self(), self(), self(), self(), nullptr};
}

MeshGroups make_mesh_groups(Control& control, BackendFactory& backends, const Mesh& mesh) {
  const int64_t rank = control.world().rank;
  MORAINE_ASSERT(mesh.world_size() == control.world().world_size, "the mesh covers the world");
  std::vector<int64_t> same_node;
  for (const RankInfo& info : control.ranks()) {
    if (info.node_rank == control.world().node_rank) same_node.push_back(info.rank);
  }
  const BackendKind kind = backends.kind();
  std::vector<PlannedGroup> planned{
      {&MeshGroups::world, "world", kind, mesh.group(MeshAxis::kWorld, rank)},
      {&MeshGroups::tokens, "tokens", kind, mesh.group(MeshAxis::kEp, rank)},
      {&MeshGroups::dense_gather, "dense_gather", kind, mesh.group(MeshAxis::kFsdp, rank)},
      {&MeshGroups::expert_gather, "expert_gather", kind, mesh.group(MeshAxis::kEpFsdp, rank)},
      {&MeshGroups::expert_peers, "expert_peers", kind, mesh.group(MeshAxis::kExpertPeers, rank)},
      {&MeshGroups::ep, "ep", kind, mesh.group(MeshAxis::kEp, rank)},
      {&MeshGroups::ep_fsdp, "ep_fsdp", kind, mesh.group(MeshAxis::kEpFsdp, rank)},
      {&MeshGroups::node, "node", BackendKind::kGloo, same_node},
  };
  if (kind != BackendKind::kGloo) {
    planned.push_back({&MeshGroups::host_world, "host_world", BackendKind::kGloo, mesh.group(MeshAxis::kWorld, rank)});
  }
  require_descriptors_for(planned, control);
  MeshGroups groups;
  groups.mesh = mesh;
  groups.control = &control;
  for (const PlannedGroup& group : planned) {
    groups.*group.member = std::make_unique<ProcessGroup>(control, backends, group.kind, group.name, group.ranks);
  }
  // A group is there when this rank is connected with all its members, so nobody needs to come any more.
  backends.stop_listening();
  return groups;
}

}  // namespace moraine
