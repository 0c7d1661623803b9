#include "distributed/control/launch.h"

#include <ATen/Parallel.h>
#include <c10/util/Logging.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>

#include "base/error.h"
#include "distributed/control/network_address.h"

namespace moraine {

namespace {

// The variables of one launcher. Every getter names the variable in its errors.
class Variables {
 public:
  explicit Variables(const Environment& environment) : environment_(environment) {}

  std::optional<std::string> text(const char* name) const {
    std::optional<std::string> value = environment_(name);
    if (value && value->empty()) return std::nullopt;
    return value;
  }

  std::optional<int64_t> number(const char* name, int64_t min, int64_t max) const {
    const std::optional<std::string> value = text(name);
    if (!value) return std::nullopt;
    int64_t n = 0;
    const auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), n);
    if (error != std::errc() || end != value->data() + value->size()) {
      throw input_error(name, fmt::format("'{}' is not a whole number", *value));
    }
    if (n < min || n > max) throw input_error(name, fmt::format("{} is not within {} to {}", n, min, max));
    return n;
  }

  int64_t required(const char* name, const char* because_of, int64_t min, int64_t max) const {
    const std::optional<int64_t> n = number(name, min, max);
    if (!n) throw input_error(name, fmt::format("is not set although {} is", because_of), "the launcher sets both");
    return *n;
  }

 private:
  const Environment& environment_;
};

constexpr int64_t kMaxRanks = 1 << 20;

void require_below(const char* name, int64_t value, const char* size_name, int64_t size) {
  if (value >= size) {
    throw input_error(name, fmt::format("{} is not below {} = {}", value, size_name, size), "ranks count from 0");
  }
}

// A port from 20000 to 29999 that every process of the same job computes from the job's name.
uint16_t port_of_job(const std::string& job) {
  uint32_t hash = 2166136261u;  // FNV-1a
  for (unsigned char c : job) hash = (hash ^ c) * 16777619u;
  return static_cast<uint16_t>(20000 + hash % 10000);
}

std::optional<uint16_t> master_port(const Variables& variables) {
  const auto port = variables.number("MASTER_PORT", 1, 65535);
  return port ? std::optional(static_cast<uint16_t>(*port)) : std::nullopt;
}

WorldInfo torchrun_world(const Variables& variables) {
  WorldInfo world;
  world.source = variables.text(kLocalLaunchVariable) ? LaunchSource::kLocal : LaunchSource::kTorchrun;
  world.world_size = variables.required("WORLD_SIZE", "RANK", 1, kMaxRanks);
  world.rank = variables.required("RANK", "WORLD_SIZE", 0, kMaxRanks);
  require_below("RANK", world.rank, "WORLD_SIZE", world.world_size);
  // Some launchers set only the global numbers. A master with a loopback name says that all ranks are on this host.
  world.master_addr = variables.text("MASTER_ADDR").value_or("");
  const bool one_host = world.master_addr == "localhost" || is_loopback(world.master_addr);
  world.local_world_size = variables.number("LOCAL_WORLD_SIZE", 1, kMaxRanks).value_or(one_host ? world.world_size : 1);
  if (world.local_world_size > world.world_size) {
    throw input_error("LOCAL_WORLD_SIZE",
                      fmt::format("{} is more than WORLD_SIZE = {}", world.local_world_size, world.world_size));
  }
  world.local_rank = variables.number("LOCAL_RANK", 0, kMaxRanks).value_or(world.rank % world.local_world_size);
  require_below("LOCAL_RANK", world.local_rank, "LOCAL_WORLD_SIZE", world.local_world_size);
  world.num_nodes = (world.world_size + world.local_world_size - 1) / world.local_world_size;
  world.node_rank = variables.number("GROUP_RANK", 0, kMaxRanks).value_or(world.rank / world.local_world_size);
  world.agent_store = variables.text("TORCHELASTIC_USE_AGENT_STORE").value_or("") == "True";
  world.run_id = variables.text("TORCHELASTIC_RUN_ID").value_or("") + "." +
                 variables.text("TORCHELASTIC_RESTART_COUNT").value_or("0");
  if (world.source == LaunchSource::kLocal) world.agent_store = true;
  if (!world.distributed()) return world;
  if (world.master_addr.empty()) throw input_error("MASTER_ADDR", "is not set although WORLD_SIZE is");
  const auto port = master_port(variables);
  if (!port) throw input_error("MASTER_PORT", "is not set although WORLD_SIZE is");
  world.master_port = *port;
  return world;
}

WorldInfo slurm_world(const Variables& variables) {
  WorldInfo world;
  world.source = LaunchSource::kSlurm;
  const char* size_name = variables.text("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
  world.world_size = variables.required(size_name, "SLURM_PROCID", 1, kMaxRanks);
  world.rank = variables.required("SLURM_PROCID", size_name, 0, kMaxRanks);
  require_below("SLURM_PROCID", world.rank, size_name, world.world_size);
  world.node_rank = variables.number("SLURM_NODEID", 0, kMaxRanks).value_or(0);
  const char* nodes_name = variables.text("SLURM_STEP_NUM_NODES") ? "SLURM_STEP_NUM_NODES" : "SLURM_NNODES";
  world.num_nodes = variables.number(nodes_name, 1, kMaxRanks).value_or(world.node_rank + 1);
  require_below("SLURM_NODEID", world.node_rank, nodes_name, world.num_nodes);
  world.local_rank = variables.number("SLURM_LOCALID", 0, kMaxRanks).value_or(0);
  // "2(x3),1" counts tasks per node; only the even case can be told without expanding it, so LOCALID bounds the rest.
  world.local_world_size = std::max(world.local_rank + 1, world.world_size / world.num_nodes);
  if (!world.distributed()) return world;
  if (auto addr = variables.text("MASTER_ADDR")) {
    world.master_addr = *addr;
  } else if (auto nodes = variables.text("SLURM_STEP_NODELIST")) {
    world.master_addr = first_slurm_host(*nodes);
  } else if (world.num_nodes == 1) {
    world.master_addr = "127.0.0.1";
  } else {
    throw input_error("SLURM_STEP_NODELIST", "is not set although SLURM_PROCID is", "or set MASTER_ADDR");
  }
  const std::string job =
      variables.text("SLURM_JOB_ID").value_or("") + "." + variables.text("SLURM_STEP_ID").value_or("");
  world.run_id = job;
  world.master_port = master_port(variables).value_or(port_of_job("slurm" + job));
  return world;
}

WorldInfo open_mpi_world(const Variables& variables) {
  WorldInfo world;
  world.source = LaunchSource::kOpenMpi;
  world.world_size = variables.required("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", 1, kMaxRanks);
  world.rank = variables.required("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", 0, kMaxRanks);
  require_below("OMPI_COMM_WORLD_RANK", world.rank, "OMPI_COMM_WORLD_SIZE", world.world_size);
  world.local_world_size = variables.number("OMPI_COMM_WORLD_LOCAL_SIZE", 1, world.world_size).value_or(1);
  world.local_rank = variables.number("OMPI_COMM_WORLD_LOCAL_RANK", 0, kMaxRanks).value_or(0);
  require_below("OMPI_COMM_WORLD_LOCAL_RANK", world.local_rank, "OMPI_COMM_WORLD_LOCAL_SIZE", world.local_world_size);
  world.num_nodes = (world.world_size + world.local_world_size - 1) / world.local_world_size;
  // OMPI_COMM_WORLD_NODE_RANK counts ranks on the node, not nodes: the node's own number is not in the environment.
  world.node_rank = world.rank / world.local_world_size;
  if (!world.distributed()) return world;
  world.master_addr = variables.text("MASTER_ADDR").value_or("");
  if (world.master_addr.empty()) {
    if (world.num_nodes > 1) {
      throw input_error("MASTER_ADDR", "is not set, and mpirun started ranks on several nodes",
                        "mpirun -x MASTER_ADDR=<host of rank 0>");
    }
    world.master_addr = "127.0.0.1";
  }
  const std::string job = variables.text("PMIX_NAMESPACE")
                              .value_or(variables.text("OMPI_MCA_ess_base_jobid").value_or(std::to_string(getuid())));
  world.run_id = job;
  world.master_port = master_port(variables).value_or(port_of_job("mpi" + job));
  return world;
}

}  // namespace

const char* launch_source_name(LaunchSource source) {
  switch (source) {
    case LaunchSource::kNone:
      return "none";
    case LaunchSource::kTorchrun:
      return "torchrun";
    case LaunchSource::kSlurm:
      return "slurm";
    case LaunchSource::kOpenMpi:
      return "openmpi";
    case LaunchSource::kLocal:
      return "local";
  }
  return "?";
}

Environment process_environment() {
  return [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    return value ? std::optional<std::string>(value) : std::nullopt;
  };
}

WorldInfo world_from_environment(const Environment& environment) {
  const Variables variables(environment);
  // torchrun inside a Slurm step, and mpirun inside a Slurm job, are common: the innermost launcher counts.
  if (variables.text("RANK") || variables.text("WORLD_SIZE")) return torchrun_world(variables);
  if (variables.text("OMPI_COMM_WORLD_RANK") || variables.text("OMPI_COMM_WORLD_SIZE"))
    return open_mpi_world(variables);
  // A batch script outside srun has SLURM_PROCID and SLURM_NTASKS too, but no step: it is one process.
  if (variables.text("SLURM_PROCID") && (variables.text("SLURM_STEP_NODELIST") || variables.text("SLURM_STEP_ID"))) {
    return slurm_world(variables);
  }
  return {};
}

std::string first_slurm_host(const std::string& node_list) {
  auto malformed = [&] {
    return input_error("SLURM_STEP_NODELIST", fmt::format("'{}' is not a list of hosts", node_list),
                       "set MASTER_ADDR to the host of rank 0");
  };
  std::string host;
  size_t i = 0;
  // A name may hold several bracketed parts ("rack[1-2]node[01-16]"): the first value of each is the first host.
  while (i < node_list.size() && node_list[i] != ',') {
    if (node_list[i] != '[') {
      host += node_list[i++];
      continue;
    }
    const size_t close = node_list.find(']', i);
    if (close == std::string::npos) throw malformed();
    const size_t end = node_list.find_first_of("-,]", i);
    if (end == i + 1) throw malformed();
    host += node_list.substr(i + 1, end - i - 1);
    i = close + 1;
  }
  if (host.empty() || host.find_first_of("[] \t") != std::string::npos) throw malformed();
  return host;
}

std::string host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0) return "?";
  return name;
}

int64_t default_thread_count(int64_t local_world_size) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  const int64_t count = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
  return std::max<int64_t>(1, count / std::max<int64_t>(1, local_world_size));
}

void set_thread_count(const WorldInfo& world) {
  // Said to libtorch too: a rank of `--ranks N` gets the variable after libtorch has looked for it.
  const char* given = std::getenv("OMP_NUM_THREADS");
  const int wanted = given ? std::atoi(given) : 0;
  at::set_num_threads(wanted > 0 ? wanted : static_cast<int>(default_thread_count(world.local_world_size)));
}

void quiet_torch_logs() {
  if (std::getenv("TORCH_CPP_LOG_LEVEL")) {
    c10::initLogging();
  } else {
    FLAGS_caffe2_log_level = 4;  // above FATAL = 3
  }
}

}  // namespace moraine
