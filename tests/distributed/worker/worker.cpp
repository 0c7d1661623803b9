// A rank for the tests of tests/dist: dist_worker SCENARIO [--ranks N]. The scenarios run collectives and check what
// arrives, or hurt one rank so that the tests can look at what the others do.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "base/output.h"
#include "base/process.h"
#include "distributed/collectives/mesh_groups.h"
#include "distributed/control/agreement.h"
#include "distributed/control/control_store.h"
#include "distributed/control/heartbeat.h"
#include "distributed/launch/local_ranks.h"
#include "distributed/launch/run_rank.h"

namespace moraine {
namespace {

void check(bool good, const std::string& what) {
  if (!good) throw run_error("check", what);
}

int64_t env_number(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoll(text) : otherwise;
}

// The rank that a scenario hurts.
bool is_victim(const Control& control) {
  return control.world().rank == env_number("VICTIM", control.world().world_size - 1);
}

// Tells the test when it happened: "hurt SECONDS" on the clock that all processes share.
void announce() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  std::printf("hurt %.3f\n", std::chrono::duration<double>(now).count());
  std::fflush(stdout);
}

// Waits until the others could read what this rank is doing: stages are told in the background, later on a busy
// machine.
void wait_until_told(Control& control, const std::string& stage) {
  const WorldInfo& world = control.world();
  const auto store = with_prefix(control_prefix(world), connect_store(world, std::chrono::seconds(30)));
  const auto told = [&] {
    const auto beat = try_get(*store, heartbeat_key(world.rank));
    return beat && Heartbeat::from_json(*beat).stage == stage;
  };
  while (!told()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

// uint8 zeros. Whoever follows a pointer into them after they are freed ends by SIGSEGV.
at::Tensor unmapped_when_freed(int64_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(memory != MAP_FAILED, "mmap");
  return at::from_blob(
      memory, {bytes}, [bytes](void* freed) { munmap(freed, bytes); }, at::kByte);
}

struct Groups {
  explicit Groups(Control& control)
      : backends(control.world(), BackendKind::kGloo, control.timeout()),
        world(control, backends, BackendKind::kGloo, "world", all_ranks(control)) {}
  static std::vector<int64_t> all_ranks(Control& control) {
    return Mesh::make(control.world().world_size, {}).group(MeshAxis::kWorld, control.world().rank);
  }
  BackendFactory backends;
  ProcessGroup world;
};

// ------------------------------------------------------------------------------------------------ what arrives

void check_gathers(ProcessGroup& group) {
  const int64_t n = group.size(), rank = group.rank();
  for (at::ScalarType dtype : {at::kByte, at::kFloat, at::kBFloat16, at::kLong, at::kBool, at::kFloat8_e4m3fn}) {
    const at::Tensor all = at::arange(n * 6, at::kFloat).remainder(7).view({n, 2, 3}).to(dtype);
    at::Tensor out = at::zeros({n, 2, 3}, at::kFloat).to(dtype);
    group.all_gather_into_tensor(out, all[rank].contiguous());
    check(out.view(at::kByte).equal(all.view(at::kByte)), "all_gather_into_tensor");
    // In place: the input is this rank's part of the output.
    out = at::zeros({n, 2, 3}, at::kFloat).to(dtype);
    out[rank].copy_(all[rank]);
    Work work = group.all_gather_into_tensor_async(out, out[rank]);
    work.wait();
    check(out.view(at::kByte).equal(all.view(at::kByte)), "all_gather_into_tensor in place");
  }
  at::Tensor nothing = at::empty({0, 3});
  group.all_gather_into_tensor(nothing, at::empty({0, 3}));
}

// Rank i sends (i + 2·j) % 3 rows to rank j, so some pairs have none; values say who sent what.
void check_all_to_all(ProcessGroup& group, at::ScalarType dtype) {
  const int64_t n = group.size(), rank = group.rank();
  auto rows = [](int64_t from, int64_t to) { return (from + 2 * to) % 3; };
  auto value = [](int64_t from, int64_t to, int64_t row) { return from * 16 + to * 4 + row; };
  std::vector<int64_t> in, out;
  std::vector<at::Tensor> sent{at::empty({0, 5})}, expected{at::empty({0, 5})};
  for (int64_t peer = 0; peer < n; ++peer) {
    in.push_back(rows(rank, peer));
    out.push_back(rows(peer, rank));
    for (int64_t row = 0; row < in.back(); ++row) sent.push_back(at::full({1, 5}, value(rank, peer, row), at::kFloat));
    for (int64_t row = 0; row < out.back(); ++row)
      expected.push_back(at::full({1, 5}, value(peer, rank, row), at::kFloat));
  }
  const at::Tensor want = at::cat(expected).to(dtype);
  const at::Tensor got = at::empty_like(want);
  group.all_to_all_single(got, at::cat(sent).to(dtype), out, in);
  check(got.equal(want), fmt::format("all_to_all_single {}", at::toString(dtype)));

  // One rank alone has rows, and then none has.
  const int64_t giver = n - 1;
  std::vector<int64_t> give(n, rank == giver ? 2 : 0), take(n, 0);
  take[giver] = 2;
  const at::Tensor few = at::empty({2, 5}).to(dtype);
  group.all_to_all_single(few, at::full({rank == giver ? 2 * n : 0, 5}, 3, at::kFloat).to(dtype), take, give);
  check(few.equal(at::full({2, 5}, 3, at::kFloat).to(dtype)), "all_to_all_single from one rank");
  const std::vector<int64_t> zero(n, 0);
  group.all_to_all_single(at::empty({0, 5}), at::empty({0, 5}), zero, zero);

  const at::Tensor even = at::empty({n}, at::kLong);
  group.all_to_all_single(even, at::full({n}, rank, at::kLong));
  check(even.equal(at::arange(n)), "all_to_all_single in equal parts");
}

void check_reductions(ProcessGroup& group) {
  const int64_t n = group.size(), rank = group.rank();
  // Sizes around the limits of the small path and of the padding.
  for (int64_t numel : {1, 7, 1000, 20000, 100001}) {
    for (at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
      std::vector<at::Tensor> inputs;
      for (int64_t i = 0; i < n; ++i) {
        at::Tensor x = at::arange(numel, at::kDouble).add(1.0 + i * 0.37).mul(12.9898).sin().mul(1000 * (i + 1));
        inputs.push_back(x.to(dtype));
      }
      at::Tensor want =
          inputs[0].to(dtype == at::kBFloat16 ? at::kFloat : dtype, /*non_blocking=*/false, /*copy=*/true);
      for (int64_t i = 1; i < n; ++i) want.add_(inputs[i]);
      const at::Tensor got = inputs[rank].clone();
      group.all_reduce(got);
      check(got.equal(want.to(dtype)),
            fmt::format("all_reduce of {} {}: not the sum in rank order", numel, at::toString(dtype)));
    }
  }
  at::Tensor whole = at::full({3}, rank + 1, at::kLong);
  group.all_reduce(whole);
  check(whole[0].item<int64_t>() == n * (n + 1) / 2, "all_reduce of integers");
  at::Tensor most = at::full({2}, static_cast<double>(rank), at::kFloat), least = at::full({2}, rank, at::kLong);
  group.all_reduce(most, ReduceKind::kMax);
  group.all_reduce(least, ReduceKind::kMin);
  check(most[0].item<float>() == n - 1 && least[0].item<int64_t>() == 0, "all_reduce min and max");

  const at::Tensor input = at::arange(n * 4, at::kFloat).view({n, 4}).add(rank);
  const at::Tensor part = at::empty({4});
  group.reduce_scatter_tensor(part, input);
  check(part.equal(at::arange(n * 4, at::kFloat).view({n, 4})[rank].mul(n).add(n * (n - 1) / 2)),
        "reduce_scatter_tensor");
}

void check_rooted(ProcessGroup& group) {
  const int64_t n = group.size(), rank = group.rank();
  for (int64_t root = 0; root < n; ++root) {
    at::Tensor x = at::full({3}, rank, at::kLong);
    group.broadcast(x, root);
    check(x.equal(at::full({3}, root, at::kLong)), "broadcast");
    // Rank i has i elements: rank 0 none at all.
    std::vector<at::Tensor> parts;
    if (rank == root) {
      for (int64_t i = 0; i < n; ++i) parts.push_back(at::zeros({i}));
    }
    group.gather(parts, at::full({rank}, static_cast<double>(rank), at::kFloat), root);
    for (size_t i = 0; i < parts.size(); ++i) {
      check(parts[i].equal(at::full({static_cast<int64_t>(i)}, static_cast<double>(i), at::kFloat)), "gather");
    }
    const at::Tensor own = at::zeros({rank});
    group.scatter(own, parts, root);
    check(own.equal(at::full({rank}, static_cast<double>(rank), at::kFloat)), "scatter");
  }
  if (n > 1) {
    const at::Tensor to = at::full({4}, rank, at::kLong), from = at::empty({4}, at::kLong);
    Work sent = group.send_async(to, (rank + 1) % n);
    group.recv(from, (rank + n - 1) % n);
    sent.wait();
    check(from[0].item<int64_t>() == (rank + n - 1) % n, "send and recv");
  }
  group.barrier();
}

int collectives(Control& control) {
  Groups groups(control);
  check_gathers(groups.world);
  for (at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kByte, at::kLong}) check_all_to_all(groups.world, dtype);
  check_reductions(groups.world);
  check_rooted(groups.world);
  // 8 MiB a rank, and several in flight on several groups.
  BackendFactory backends(control.world(), BackendKind::kGloo, control.timeout());
  ProcessGroup other(control, backends, BackendKind::kGloo, "other", groups.world.ranks());
  const int64_t n = groups.world.size(), mb = 8 << 20;
  const at::Tensor shard = at::full({mb}, control.world().rank, at::kByte), whole = at::empty({n * mb}, at::kByte);
  Work gather = groups.world.all_gather_into_tensor_async(whole, shard);
  check_all_to_all(other, at::kFloat);
  gather.wait();
  for (int64_t i = 0; i < n; ++i) check(whole[i * mb + mb - 1].item<int64_t>() == i, "gather in flight");
  log_info("collectives: {} ranks good", n);
  return 0;
}

int mesh(Control& control) {
  const int64_t size = control.world().world_size;
  BackendFactory backends(control.world(), BackendKind::kGloo, control.timeout());
  const Mesh mesh = Mesh::make(size, {.ep = env_number("EP", 2), .fsdp = {}, .replicate = {}});
  MeshGroups groups = make_mesh_groups(control, backends, mesh);
  for (ProcessGroup* group :
       {groups.world.get(), groups.tokens.get(), groups.dense_gather.get(), groups.expert_gather.get(),
        groups.expert_peers.get(), groups.ep.get(), groups.ep_fsdp.get(), groups.node.get()}) {
    const at::Tensor ranks = at::empty({group->size()}, at::kLong);
    group->all_gather_into_tensor(ranks, at::full({1}, control.world().rank, at::kLong));
    for (int64_t i = 0; i < group->size(); ++i) check(ranks[i].item<int64_t>() == group->ranks()[i], group->name());
    check_all_to_all(*group, at::kBFloat16);
    check_rooted(*group);
  }
  log_info("{}", mesh.describe());
  return 0;
}

int store(Control& control) {
  const int64_t rank = control.world().rank, size = control.world().world_size;
  if (size > 1) {
    control.put(fmt::format("hello/{}", rank), std::string(100000, 'a' + static_cast<char>(rank)));
    for (int64_t i = 0; i < size; ++i) {
      check(control.wait_for(fmt::format("hello/{}", i), "hello")[0] == 'a' + i, "wait_for");
    }
  }
  for (int i = 0; i < 3; ++i) control.barrier(fmt::format("b{}", i));
  std::string hosts;
  for (const RankInfo& info : control.ranks()) hosts += fmt::format(" {}:{}", info.rank, info.local_rank);
  log_info("ranks{}", hosts);
  return 0;
}

// ------------------------------------------------------------------------------------------------ what goes wrong

// Steps in a collective until the victim does `hurt` in its second step; TIMEOUT_MS limits collectives.
int step_until(Control& control, const std::function<void()>& hurt) {
  control.set_timeout(std::chrono::milliseconds(env_number("TIMEOUT_MS", 7200000)));
  Groups groups(control);
  for (int step = 0;; ++step) {
    control.set_stage(fmt::format("step {}", step));
    const at::Tensor x = at::ones({1000});
    if (hurt && step == 20 && is_victim(control)) {
      wait_until_told(control, "step 20");
      announce();
      hurt();
    }
    groups.world.all_reduce(x);
    check(x[0].item<float>() == static_cast<float>(control.world().world_size), "all_reduce");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    if (std::getenv("STEPS") && step >= env_number("STEPS", 0)) return 0;
  }
}

const std::map<std::string, std::function<int(Control&)>> kScenarios{
    {"collectives", collectives},
    {"mesh", mesh},
    {"store", store},
    {"kill", [](Control& c) { return step_until(c, [] { raise(SIGKILL); }); }},
    {"abort", [](Control& c) { return step_until(c, [] { abort(); }); }},
    {"exit", [](Control& c) { return step_until(c, [] { _exit(7); }); }},
    {"stop", [](Control& c) { return step_until(c, [] { raise(SIGSTOP); }); }},
    {"hang", [](Control& c) { return step_until(c, [] { pause(); }); }},
    {"throw", [](Control& c) { return step_until(c, [] { throw run_error("model.safetensors", "short read"); }); }},
    {"refuse",
     [](Control& c) { return step_until(c, [] { throw input_error("data.train", "no rows", "add some"); }); }},
    {"bug", [](Control& c) { return step_until(c, [] { at::ones({2}).view({3}); }); }},
    // Dies while the others wait for it without any collective.
    {"kill_in_wait",
     [](Control& c) {
       c.set_stage("load");
       if (is_victim(c)) {
         wait_until_told(c, "load");
         announce();
         raise(SIGKILL);
       }
       c.barrier("never");
       return 0;
     }},
    // Has no end, while rank 0 has done its work.
    {"never_ends",
     [](Control& c) {
       c.set_timeout(std::chrono::milliseconds(env_number("TIMEOUT_MS", 7200000)));
       c.set_stage("the last rows");
       while (is_victim(c)) std::this_thread::sleep_for(std::chrono::seconds(1));
       return 0;
     }},
    // A gather is in flight when an error unwinds past its group.
    {"throw_in_flight",
     [](Control& c) {
       Groups groups(c);
       const at::Tensor x = at::ones({1000}), all = at::empty({c.world().world_size * 1000});
       if (c.world().rank == 0) {
         Work work = groups.world.all_gather_into_tensor_async(all, x);
         announce();
         throw run_error("row 3", "no tokens");
       }
       pause();
       return 0;
     }},
    // Gathers that nobody waits for, whose memory nobody else holds: it must last until the other rank has come.
    {"dropped_gathers",
     [](Control& c) {
       Groups groups(c);
       if (c.world().rank == 0) std::this_thread::sleep_for(std::chrono::milliseconds(300));
       for (const int64_t bytes : {int64_t{4} << 20, int64_t{4096}}) {
         const at::Tensor part = unmapped_when_freed(bytes), all = unmapped_when_freed(bytes * c.world().world_size);
         groups.world.all_gather_into_tensor_async(all, part);
       }
       groups.world.barrier();
       log_info("all gathers are done");
       return 0;
     }},
    {"all_refuse",
     [](Control& c) -> int { throw input_error("recipe.yaml", "unknown key 'trian'", "did you mean 'train'?"); }},
    {"disagree",
     [](Control& c) {
       if (is_victim(c)) announce();
       check_agreement(c, "start", {{"recipe", "r"}, {"train.seed", is_victim(c) ? "7" : "0"}, {"program", "1"}});
       return 0;
     }},
    {"agree",
     [](Control& c) {
       check_agreement(c, "start", {{"recipe", "r"}, {"train.seed", "0"}});
       check_agreement(c, "data", {{"rows", "10"}});
       log_info("agreed");
       return 0;
     }},
    // Warnings of all ranks, and work that ends at different times.
    {"warn",
     [](Control& c) {
       log_warning("loss is high");
       log_info("rank {} speaks", c.world().rank);
       std::this_thread::sleep_for(std::chrono::milliseconds(300 * c.world().rank));
       return 0;
     }},
    // All groups of a run, then steps until somebody ends it.
    {"mesh_steps",
     [](Control& c) {
       BackendFactory backends(c.world(), BackendKind::kGloo, c.timeout());
       MeshGroups groups = make_mesh_groups(c, backends, Mesh::make(c.world().world_size, {}));
       for (const RankInfo& info : c.ranks()) log_info("pid {}", info.process_id);
       for (int64_t step = 0;; ++step) {
         const at::Tensor x = at::ones({1000});
         groups.world->all_reduce(x);
         if (step % 10 == 0) log_info("step {}.", step);
         std::this_thread::sleep_for(std::chrono::milliseconds(5));
       }
       return 0;
     }},
    {"result_without_reader",
     [](Control& c) {
       int ends[2];
       if (c.world().rank == 0 && pipe(ends) == 0) {
         close(ends[0]);
         dup2(ends[1], STDOUT_FILENO);
         print_result("a result");
       }
       return step_until(c, nullptr);
     }},
    {"pids",
     [](Control& c) {
       for (const RankInfo& info : c.ranks()) log_info("pid {}", info.process_id);
       return step_until(c, nullptr);
     }},
};

int run_as_rank(const std::string& scenario) {
  const WorldInfo world = world_from_environment();
  if (std::getenv("DIE_BEFORE_JOINING") && world.rank == 1) {
    announce();
    raise(SIGKILL);
  }
  ControlOptions options = ControlOptions::from_environment();
  options.watch_local_processes = !std::getenv("BLIND");
  options.start_timeout = std::chrono::milliseconds(env_number("START_MS", 300000));
  options.quiet_start = std::chrono::milliseconds(env_number("QUIET_MS", 20000));
  return run_rank(world, options, kScenarios.at(scenario));
}

int run(const std::vector<std::string>& argv) {
  const auto rank = [&] { return run_as_rank(argv.at(1)); };
  return argv.size() > 3 && argv[2] == "--ranks" ? run_local_ranks(std::stoll(argv[3]), rank) : rank();
}

}  // namespace
}  // namespace moraine

int main(int argc, char** argv) {
  moraine::make_write_failures_errors();
  try {
    moraine::end_process(moraine::run({argv, argv + argc}));
  } catch (const moraine::Error& e) {
    std::fprintf(stderr, "moraine: error: %s\n", e.what());
    return static_cast<int>(e.kind);
  }
}
