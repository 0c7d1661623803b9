#include "distributed/collectives/mesh_groups.h"

#include <fmt/format.h>

#include "base/error.h"
#include "distributed/control/descriptors.h"

namespace moraine {

namespace {

std::unique_ptr<ProcessGroup> MeshGroups::*member_of(MeshPurpose purpose) {
  switch (purpose) {
    case MeshPurpose::kWorld:
      return &MeshGroups::world;
    case MeshPurpose::kTokens:
      return &MeshGroups::tokens;
    case MeshPurpose::kDenseGather:
      return &MeshGroups::dense_gather;
    case MeshPurpose::kExpertGather:
      return &MeshGroups::expert_gather;
    case MeshPurpose::kExpertPeers:
      return &MeshGroups::expert_peers;
    case MeshPurpose::kEp:
      return &MeshGroups::ep;
    case MeshPurpose::kEpFsdp:
      return &MeshGroups::ep_fsdp;
  }
  MORAINE_ASSERT(false, "unknown purpose of a group");
}

const char* name_of(MeshPurpose purpose) {
  for (const MeshGroupSpec& spec : kMeshGroups)
    if (spec.purpose == purpose) return spec.name;
  MORAINE_ASSERT(false, "unknown purpose of a group");
}

using Communicators = std::vector<std::shared_ptr<Communicator>>;

// Where Gloo's own thread finds no descriptor for a connection that another rank opens, it ends the process without a
// word of ours.
void require_descriptors_for(const Communicators& communicators, const Control& control) {
  constexpr int64_t kFiles = 16;  // and what else a run opens beside connections
  int64_t to_store = 0, to_peers = 0;
  for (const auto& communicator : communicators) {
    if (communicator->ranks().size() > 1) ++to_store;
    if (communicator->kind() == BackendKind::kGloo) to_peers += static_cast<int64_t>(communicator->ranks().size()) - 1;
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
  MeshGroups groups;
  groups.mesh = mesh;
  groups.control = &control;
  Communicators communicators;
  const auto add_communicator = [&](BackendKind kind, const char* name, const std::vector<int64_t>& ranks) {
    return communicators.emplace_back(std::make_shared<Communicator>(control, backends, kind, name, ranks));
  };
  const BackendKind kind = backends.kind();
  for (const MeshCommunicator& planned : mesh_communicators(mesh, rank)) {
    const auto communicator = add_communicator(kind, name_of(planned.purposes[0]), planned.ranks);
    for (const MeshPurpose purpose : planned.purposes)
      groups.*member_of(purpose) = std::make_unique<ProcessGroup>(name_of(purpose), communicator);
  }
  for (const MeshGroupSpec& spec : kMeshGroups) {
    std::unique_ptr<ProcessGroup>& group = groups.*member_of(spec.purpose);
    if (!group) group = std::make_unique<ProcessGroup>(spec.name, rank);
  }
  groups.node = std::make_unique<ProcessGroup>("node", add_communicator(BackendKind::kGloo, "node", same_node));
  if (kind != BackendKind::kGloo) {
    const auto communicator = add_communicator(BackendKind::kGloo, "host_world", groups.world->ranks());
    groups.host_world = std::make_unique<ProcessGroup>("host_world", communicator);
  }
  require_descriptors_for(communicators, control);
  // Gloo's connect now: later nobody can. Of NCCL's the world's, so that what is wrong with the fabric shows before
  // anything is loaded; the others take memory of the device when they are first needed.
  for (const auto& communicator : communicators)
    if (communicator->kind() == BackendKind::kGloo || communicator == communicators.front()) communicator->connect();
  // A group is there when this rank is connected with all its members, so nobody needs to come any more.
  backends.stop_listening();
  return groups;
}

}  // namespace moraine
