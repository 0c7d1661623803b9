// Which rank this process is, from the environment of whatever started it: torchrun, Slurm, mpirun, or moraine's own
// `--ranks N` (local_ranks.h). None of them: one process and no distributed start-up at all.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace moraine {

enum class LaunchSource { kNone, kTorchrun, kSlurm, kOpenMpi, kLocal };
const char* launch_source_name(LaunchSource source);

struct WorldInfo {
  int64_t rank = 0, world_size = 1;
  int64_t local_rank = 0, local_world_size = 1;  // within the node
  int64_t node_rank = 0, num_nodes = 1;
  std::string master_addr = {};  // empty with one process
  uint16_t master_port = 0;
  // The launcher (torchrun's agent, or moraine's own parent process) already serves a store at master_addr:master_port;
  // else rank 0 serves it.
  bool agent_store = false;
  // Separates runs that share a store: torchrun's run id and restart count.
  std::string run_id = {};
  LaunchSource source = LaunchSource::kNone;

  bool distributed() const { return world_size > 1; }
};

// Looks an environment variable up; nullopt when it is not set.
using Environment = std::function<std::optional<std::string>(const char* name)>;
Environment process_environment();

// Throws input errors that name the variable when values are missing, malformed or contradict each other.
WorldInfo world_from_environment(const Environment& environment = process_environment());

// The first host of a Slurm node list: "gpu[003-005,9],login1" -> "gpu003". Throws an input error on malformed lists.
std::string first_slurm_host(const std::string& node_list);

// Set in the environment of ranks started by `--ranks N`.
inline constexpr char kLocalLaunchVariable[] = "MORAINE_LOCAL_LAUNCH";

// This machine's name.
std::string host_name();

// Cores this process may use, shared out over the ranks of the node; at least 1.
int64_t default_thread_count(int64_t local_world_size);
// Sets libtorch's threads to OMP_NUM_THREADS, or else to default_thread_count. Call before the first tensor operation.
void set_thread_count(const WorldInfo& world);

// Keeps c10d's log lines and their stack traces off stderr: errors reach the user as one line of moraine's own.
// TORCH_CPP_LOG_LEVEL, when set, brings them back.
void quiet_torch_logs();

}  // namespace moraine
