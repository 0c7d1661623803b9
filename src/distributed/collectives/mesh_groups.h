// The process groups of a mesh.
#pragma once

#include <memory>

#include "distributed/collectives/backend.h"
#include "distributed/collectives/mesh.h"
#include "distributed/collectives/process_group.h"
#include "distributed/control/control.h"

namespace moraine {

// One group for each purpose. Those with the same ranks share communicators (mesh_communicators): a communicator of
// NCCL's takes hundreds of megabytes of a GPU. Groups of one rank cost nothing.
struct MeshGroups {
  Mesh mesh;
  Control* control = nullptr;                   // of the world; none in one process
  std::unique_ptr<ProcessGroup> world;          // gradients of dense adapters, losses, counts
  std::unique_ptr<ProcessGroup> tokens;         // ep: all-to-alls of tokens
  std::unique_ptr<ProcessGroup> dense_gather;   // fsdp: gathers of dense and root images
  std::unique_ptr<ProcessGroup> expert_gather;  // ep_fsdp: gathers of expert images
  std::unique_ptr<ProcessGroup> expert_peers;   // same experts, all replicas: gradients of expert adapters
  std::unique_ptr<ProcessGroup> ep;             // ep: everything else along it (saving, checks)
  std::unique_ptr<ProcessGroup> ep_fsdp;        // ep_fsdp: everything else along it (masters and moments)
  std::unique_ptr<ProcessGroup> node;           // ranks of this node: loading in mode `node`, in host memory
  std::unique_ptr<ProcessGroup> host_world;     // the world for tensors in host memory; none where `world` takes them

  ProcessGroup& host() { return host_world ? *host_world : *world; }
};

// The groups of one process: every call on them is a local copy.
MeshGroups single_rank_groups();

// All ranks of the world must call this. control.set_timeout() must have been called: it is also the backends' limit.
// `backends` makes no more groups in host memory afterwards (stop_listening).
MeshGroups make_mesh_groups(Control& control, BackendFactory& backends, const Mesh& mesh);

}  // namespace moraine
