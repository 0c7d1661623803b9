#include "distributed/control/launch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "distributed/collectives/backend.h"
#include "distributed/collectives/device.h"
#include "distributed/control/control.h"
#include "distributed/control/network_address.h"
#include "distributed/launch/local_ranks.h"

namespace moraine {
namespace {

using testing::HasSubstr;
using Variables = std::map<std::string, std::string>;

Environment environment(const Variables& variables) {
  return [variables](const char* name) -> std::optional<std::string> {
    const auto it = variables.find(name);
    return it == variables.end() ? std::nullopt : std::optional(it->second);
  };
}

WorldInfo world(const Variables& variables) { return world_from_environment(environment(variables)); }

std::string error_of(const Variables& variables) {
  try {
    world(variables);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind, ErrorKind::kInput);
    return e.what();
  }
  return "no error";
}

const Variables kTorchrun{{"RANK", "5"},
                          {"WORLD_SIZE", "8"},
                          {"LOCAL_RANK", "1"},
                          {"LOCAL_WORLD_SIZE", "4"},
                          {"GROUP_RANK", "1"},
                          {"MASTER_ADDR", "node0"},
                          {"MASTER_PORT", "29500"},
                          {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                          {"TORCHELASTIC_RUN_ID", "job7"},
                          {"TORCHELASTIC_RESTART_COUNT", "2"}};

const Variables kSlurm{{"SLURM_PROCID", "3"},  {"SLURM_NTASKS", "4"}, {"SLURM_LOCALID", "1"},
                       {"SLURM_NODEID", "1"},  {"SLURM_NNODES", "2"}, {"SLURM_STEP_NODELIST", "gpu[003-004]"},
                       {"SLURM_JOB_ID", "77"}, {"SLURM_STEP_ID", "0"}};

Variables with(Variables variables, const std::string& name, const std::string& value) {
  variables[name] = value;
  return variables;
}
Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

TEST(World, NoLauncherIsOneProcess) {
  const WorldInfo info = world({{"PATH", "/bin"}, {"MASTER_ADDR", "elsewhere"}});
  EXPECT_FALSE(info.distributed());
  EXPECT_EQ(info.source, LaunchSource::kNone);
}

TEST(World, Torchrun) {
  const WorldInfo info = world(kTorchrun);
  EXPECT_EQ(info.source, LaunchSource::kTorchrun);
  EXPECT_EQ(info.rank, 5);
  EXPECT_EQ(info.world_size, 8);
  EXPECT_EQ(info.local_rank, 1);
  EXPECT_EQ(info.local_world_size, 4);
  EXPECT_EQ(info.node_rank, 1);
  EXPECT_EQ(info.num_nodes, 2);
  EXPECT_EQ(info.master_addr, "node0");
  EXPECT_EQ(info.master_port, 29500);
  EXPECT_TRUE(info.agent_store);
  EXPECT_EQ(info.run_id, "job7.2");
  EXPECT_FALSE(world(with(kTorchrun, "TORCHELASTIC_USE_AGENT_STORE", "False")).agent_store);
  // Launchers that set only the global numbers.
  const Variables bare{{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "1234"}};
  EXPECT_EQ(world(with(bare, "MASTER_ADDR", "127.0.0.1")).num_nodes, 1);
  EXPECT_EQ(world(with(bare, "MASTER_ADDR", "127.0.0.1")).local_rank, 1);
  EXPECT_EQ(world(with(bare, "MASTER_ADDR", "master")).num_nodes, 2);
  EXPECT_EQ(world(with(bare, "MASTER_ADDR", "master")).local_rank, 0);
}

TEST(World, TorchrunErrorsNameTheVariable) {
  EXPECT_EQ(error_of(with(kTorchrun, "RANK", "8")), "RANK: 8 is not below WORLD_SIZE = 8 (ranks count from 0)");
  EXPECT_EQ(error_of(with(kTorchrun, "RANK", "one")), "RANK: 'one' is not a whole number");
  EXPECT_EQ(error_of(with(kTorchrun, "RANK", "-1")), "RANK: -1 is not within 0 to 1048576");
  EXPECT_THAT(error_of(without(kTorchrun, "RANK")), HasSubstr("RANK: is not set although WORLD_SIZE is"));
  EXPECT_THAT(error_of(without(kTorchrun, "WORLD_SIZE")), HasSubstr("WORLD_SIZE: is not set although RANK is"));
  EXPECT_THAT(error_of(without(kTorchrun, "MASTER_ADDR")), HasSubstr("MASTER_ADDR: is not set"));
  EXPECT_THAT(error_of(without(kTorchrun, "MASTER_PORT")), HasSubstr("MASTER_PORT: is not set"));
  EXPECT_THAT(error_of(with(kTorchrun, "MASTER_PORT", "70000")), HasSubstr("MASTER_PORT: 70000"));
  EXPECT_THAT(error_of(with(kTorchrun, "LOCAL_WORLD_SIZE", "9")), HasSubstr("LOCAL_WORLD_SIZE: 9 is more than"));
  EXPECT_THAT(error_of(with(kTorchrun, "LOCAL_RANK", "4")), HasSubstr("LOCAL_RANK: 4 is not below LOCAL_WORLD_SIZE"));
}

TEST(World, Slurm) {
  const WorldInfo info = world(kSlurm);
  EXPECT_EQ(info.source, LaunchSource::kSlurm);
  EXPECT_EQ(info.rank, 3);
  EXPECT_EQ(info.world_size, 4);
  EXPECT_EQ(info.local_rank, 1);
  EXPECT_EQ(info.local_world_size, 2);
  EXPECT_EQ(info.node_rank, 1);
  EXPECT_EQ(info.num_nodes, 2);
  EXPECT_EQ(info.master_addr, "gpu003");
  EXPECT_GE(info.master_port, 20000);
  EXPECT_EQ(info.master_port, world(with(kSlurm, "SLURM_PROCID", "0")).master_port);
  EXPECT_NE(info.master_port, world(with(kSlurm, "SLURM_STEP_ID", "1")).master_port);
  EXPECT_FALSE(info.agent_store);
  EXPECT_EQ(world(with(kSlurm, "MASTER_PORT", "4567")).master_port, 4567);
  EXPECT_EQ(world(with(kSlurm, "MASTER_ADDR", "other")).master_addr, "other");
  EXPECT_THAT(error_of(with(kSlurm, "SLURM_PROCID", "4")), HasSubstr("SLURM_PROCID: 4 is not below SLURM_NTASKS = 4"));
  EXPECT_THAT(error_of(without(kSlurm, "SLURM_NTASKS")), HasSubstr("SLURM_NTASKS: is not set"));
}

TEST(World, ABatchScriptOutsideAnyStepIsOneProcess) {
  const Variables batch{{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "16"}, {"SLURM_JOB_ID", "77"}};
  EXPECT_FALSE(world(batch).distributed());
}

TEST(World, FirstSlurmHost) {
  EXPECT_EQ(first_slurm_host("login1"), "login1");
  EXPECT_EQ(first_slurm_host("gpu3,gpu4"), "gpu3");
  EXPECT_EQ(first_slurm_host("gpu[003-005,9],login1"), "gpu003");
  EXPECT_EQ(first_slurm_host("gpu[7]"), "gpu7");
  EXPECT_EQ(first_slurm_host("gpu[7,9-12]"), "gpu7");
  EXPECT_EQ(first_slurm_host("rack[1-2]node[01-16]-ib"), "rack1node01-ib");
  EXPECT_EQ(first_slurm_host("node-a[1-2]b,x"), "node-a1b");
  for (const char* bad : {"", "gpu[", "gpu[]", "gpu[-3]", ",a", "gpu]3"})
    EXPECT_THROW(first_slurm_host(bad), Error) << bad;
}

TEST(World, OpenMpi) {
  Variables variables{{"OMPI_COMM_WORLD_RANK", "1"},
                      {"OMPI_COMM_WORLD_SIZE", "2"},
                      {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                      {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
  const WorldInfo info = world(variables);
  EXPECT_EQ(info.source, LaunchSource::kOpenMpi);
  EXPECT_EQ(info.rank, 1);
  EXPECT_EQ(info.master_addr, "127.0.0.1");
  EXPECT_EQ(info.num_nodes, 1);
  // mpirun inside a Slurm job sees both: mpirun started this process.
  for (const auto& [name, value] : kSlurm) variables.emplace(name, value);
  EXPECT_EQ(world(variables).source, LaunchSource::kOpenMpi);
  variables["OMPI_COMM_WORLD_SIZE"] = "4";
  EXPECT_THAT(error_of(variables), HasSubstr("MASTER_ADDR: is not set, and mpirun started ranks on several nodes"));
}

TEST(World, HeartbeatLimitFromTheEnvironment) {
  EXPECT_EQ(ControlOptions::from_environment(environment({})).heartbeat_limit.count(), 8000);
  EXPECT_EQ(
      ControlOptions::from_environment(environment({{"MORAINE_HEARTBEAT_SECONDS", "2.5"}})).heartbeat_limit.count(),
      2500);
  EXPECT_EQ(ControlOptions::from_environment(environment({{"MORAINE_HEARTBEAT_SECONDS", "0"}})).heartbeat_limit.count(),
            0);
  EXPECT_THROW(ControlOptions::from_environment(environment({{"MORAINE_HEARTBEAT_SECONDS", "soon"}})), Error);
}

TEST(Backend, ChoosesByDeviceAndRefusesWhatIsNotThere) {
  EXPECT_EQ(choose_backend(BackendChoice::kAuto, c10::Device(c10::kCPU)), BackendKind::kGloo);
  EXPECT_EQ(choose_backend(BackendChoice::kGloo, c10::Device(c10::kCPU)), BackendKind::kGloo);
  EXPECT_THROW(choose_backend(BackendChoice::kNccl, c10::Device(c10::kCPU)), Error);
}

TEST(Device, RanksOfANodeTakeItsDevicesInOrder) {
  WorldInfo third{.rank = 6, .world_size = 8, .local_rank = 2, .local_world_size = 4, .node_rank = 1, .num_nodes = 2};
  third.source = LaunchSource::kLocal;
  EXPECT_EQ(choose_device(DeviceChoice::kAuto, 0, third, false), c10::Device(c10::kCPU));
  EXPECT_EQ(choose_device(DeviceChoice::kCpu, 4, third, false), c10::Device(c10::kCPU));
  EXPECT_EQ(choose_device(DeviceChoice::kAuto, 4, third, false), c10::Device(c10::kCUDA, 2));
  EXPECT_EQ(choose_device(DeviceChoice::kCuda, 4, third, false), c10::Device(c10::kCUDA, 2));
  EXPECT_EQ(choose_device(DeviceChoice::kAuto, 2, third, true), c10::Device(c10::kCUDA, 0)) << "shared";
  EXPECT_THROW(choose_device(DeviceChoice::kAuto, 2, third, false), Error);
  EXPECT_THROW(choose_device(DeviceChoice::kAuto, 1, third, false), Error);
  EXPECT_THROW(choose_device(DeviceChoice::kCuda, 0, third, false), Error);
  third.source = LaunchSource::kSlurm;
  EXPECT_EQ(choose_device(DeviceChoice::kAuto, 1, third, false), c10::Device(c10::kCUDA, 0)) << "the one it was given";
}

TEST(Device, GpusBeforeBf16AreRefusedAndSlowOnesNamed) {
  for (const auto& [major, minor] : {std::pair{6, 1}, {7, 0}, {7, 5}}) {
    try {
      check_compute_capability(major, minor);
      FAIL() << major;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind, ErrorKind::kInput);
      EXPECT_THAT(e.what(), HasSubstr(fmt::format("compute capability is {}.{}, and bf16 needs 8.0", major, minor)));
    }
  }
  for (const auto& [major, minor] : {std::pair{8, 0}, {8, 6}, {8, 9}})
    EXPECT_THAT(check_compute_capability(major, minor), HasSubstr("slow before 9.0"));
  for (const auto& [major, minor] : {std::pair{9, 0}, {10, 0}, {12, 0}})
    EXPECT_EQ(check_compute_capability(major, minor), "");
}

TEST(Device, PeakSaysWhatTensorsUsedAndWhatWasHeldForThem) {
  EXPECT_EQ(in_words(DevicePeak{3u << 20, 4u << 20}),
            "peak memory on the device: 3.00 MiB used by tensors, 4.00 MiB reserved");
}

TEST(NetworkAddress, LoopbackStaysLoopback) {
  EXPECT_EQ(address_towards("127.0.0.1", 80), "127.0.0.1");
  EXPECT_TRUE(is_loopback("127.0.1.1"));
  EXPECT_TRUE(is_loopback("::1"));
  EXPECT_FALSE(is_loopback("10.127.0.1"));
  EXPECT_EQ(own_address({.world_size = 2, .num_nodes = 2, .master_addr = "127.0.0.1", .master_port = 80}), "127.0.0.1");
}

}  // namespace
}  // namespace moraine
