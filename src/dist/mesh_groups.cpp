#include "dist/mesh_groups.h"

#include <fmt/format.h>

#include "dist/descriptors.h"

namespace moraine {

namespace {

// Gloo holds a connection to every member of a group, and ends the process when it gets none.
void require_connections(BackendKind kind, const Mesh& mesh) {
  if (kind != BackendKind::kGloo) return;
  int64_t count = 0;
  for (MeshAxis axis : {MeshAxis::kWorld, MeshAxis::kEp, MeshAxis::kFsdp, MeshAxis::kEpFsdp, MeshAxis::kExpertPeers, MeshAxis::kEp,
                        MeshAxis::kEpFsdp}) {
    if (mesh.group_size(axis) > 1) count += mesh.group_size(axis);  // one of them to the store
  }
  require_descriptors(count, fmt::format("a rank of {}", mesh.world_size()));
}

}  // namespace

MeshGroups single_rank_groups() {
  auto self = [] { return std::make_unique<ProcessGroup>(); };
  return {{}, nullptr, self(), self(), self(), self(), self(), self(), self(), self(), nullptr};
}

MeshGroups make_mesh_groups(Control& control, BackendFactory& backends, const Mesh& mesh) {
  const int64_t rank = control.world().rank;
  MORAINE_ASSERT(mesh.world_size() == control.world().world_size, "the mesh covers the world");
  require_connections(backends.kind(), mesh);
  auto group = [&](const char* name, MeshAxis axis) {
    return std::make_unique<ProcessGroup>(control, backends, backends.kind(), name, mesh.group(axis, rank));
  };
  std::vector<int64_t> same_node;
  for (const RankInfo& info : control.ranks()) {
    if (info.node_rank == control.world().node_rank) same_node.push_back(info.rank);
  }
  MeshGroups groups;
  groups.mesh = mesh;
  groups.control = &control;
  groups.world = group("world", MeshAxis::kWorld);
  groups.tokens = group("tokens", MeshAxis::kEp);
  groups.dense_gather = group("dense_gather", MeshAxis::kFsdp);
  groups.expert_gather = group("expert_gather", MeshAxis::kEpFsdp);
  groups.expert_peers = group("expert_peers", MeshAxis::kExpertPeers);
  groups.ep = group("ep", MeshAxis::kEp);
  groups.ep_fsdp = group("ep_fsdp", MeshAxis::kEpFsdp);
  const auto host_group = [&](const char* name, const std::vector<int64_t>& ranks) {
    return std::make_unique<ProcessGroup>(control, backends, BackendKind::kGloo, name, ranks);
  };
  groups.node = host_group("node", same_node);
  if (backends.kind() != BackendKind::kGloo) groups.host_world = host_group("host_world", mesh.group(MeshAxis::kWorld, rank));
  // A group is there when this rank is connected with all its members, so nobody needs to come any more.
  backends.stop_listening();
  return groups;
}

}  // namespace moraine
