// Ranks whose copies of an adapter are compared: replica_worker RANKS EP [VICTIM MODULE]. With a victim one element of
// that module's lora_B changes on that rank alone. Prints "replicas agree" when nobody found anything.
#include <fmt/format.h>

#include "adapter/replica_check.h"
#include "base/cpu_features.h"
#include "base/process.h"
#include "distributed/launch/local_ranks.h"
#include "distributed/launch/run_rank.h"

namespace moraine {
namespace {

int run(Control& control, const std::vector<std::string>& args) {
  const WorldInfo& world = control.world();
  BackendFactory backends(world, BackendKind::kGloo, control.timeout());
  MeshGroups groups = make_mesh_groups(control, backends, Mesh::make(world.world_size, {.ep = std::stoll(args[2])}));
  const std::vector<LoraModule> modules{{"q_proj", 0, "q_proj", 0, 6, 4, 2, 4, 2},
                                        {"experts.down_proj", 0, "experts.down_proj", 5, 4, 6, 3, 3, 1}};
  AdapterState adapter(modules, expert_range(5, groups.mesh.ep, groups.ep->rank()), at::kCPU);
  adapter.initialize(1);
  check_replicas(adapter, groups);
  if (args.size() > 3 && world.rank == std::stoll(args[3])) {
    for (const AdapterEntry& entry : adapter.entries())
      if (entry.module.name == args[4]) adapter.b(entry).view({-1})[3] += 1e-7;
  }
  check_replicas(adapter, groups);
  control.barrier("compared");
  if (world.rank == 0) fmt::print("replicas agree\n");
  return 0;
}

}  // namespace
}  // namespace moraine

int main(int argc, char** argv) {
  using namespace moraine;
  make_write_failures_errors();
  settle_cpu_computation();
  const std::vector<std::string> args(argv, argv + argc);
  const auto rank = [&] {
    return run_rank(world_from_environment(), ControlOptions::from_environment(),
                    [&](Control& control) { return run(control, args); });
  };
  end_process(run_local_ranks(std::stoll(args.at(1)), rank));
}
