// How a rank joins the world, and who the others are.
#include <fmt/chrono.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>

#include "base/json.h"
#include "distributed/control/control_impl.h"
#include "distributed/control/descriptors.h"

namespace moraine {

using Clock = std::chrono::steady_clock;

namespace {
// The processes of this machine, a line each.
std::string place_key() { return "place/" + process_place(); }

// Connections of each rank that whoever serves the store holds before there are groups: two, and one that only looked.
constexpr int64_t kServerConnections = 3;

// What a rank has written of itself; what is none of that, because a stranger wrote it, stays unknown.
RankInfo read_rank_info(int64_t rank, const std::string& text) {
  RankInfo info{.rank = rank, .node_rank = -1, .local_rank = -1, .process_id = 0, .host = "?", .joined = "?"};
  try {
    const Json json = Json::parse(text);
    info.host = json.at("host").get<std::string>();
    info.node_rank = json.at("node_rank").get<int64_t>();
    info.local_rank = json.at("local_rank").get<int64_t>();
    info.process_id = json.at("process_id").get<int64_t>();
    info.joined = json.at("joined").get<std::string>();
  } catch (const Json::exception&) {
  }
  return info;
}

}  // namespace

void Control::Impl::join() {
  quiet_torch_logs();
  raise_descriptor_limit();
  end_signals =
      std::make_unique<EndSignals>([this](EndSignals& signals, int number) { asked_to_end(signals, number); });
  StartWatch watch(fmt::format("rank {} ({})", world.rank, host_name()), options.quiet_start, options.start_timeout);
  const std::string prefix = control_prefix(world);
  if (world.rank == 0 && !world.agent_store) {
    require_descriptors(kServerConnections * world.world_size,
                        fmt::format("rank 0, which serves {} ranks,", world.world_size));
    const auto served = serve_store(world, watch);
    served->set(kServedRunKey, world.run_id);
    server = with_prefix(prefix, served);
  }
  const auto store = connect_store(world, watch.time_left(), &watch);
  if (!world.agent_store) check_served_run(*store, watch);
  main_store = with_prefix(prefix, store);
  beat_store = with_prefix(prefix, connect_store(world, watch.time_left(), &watch));
  check_identity();
  last_answer = Clock::now().time_since_epoch().count();
  beat_store->set(heartbeat_key(world.rank), current_beat(1).to_json());
  const std::string line = LocalPeer::own_line(world.rank);
  main_store->append(place_key(), std::vector<uint8_t>(line.begin(), line.end()));
  main_store->add("joined", 1);
  beating = true;
  beat_thread = std::thread([this] { beat_loop(); });
  watch_thread = std::thread([this] { watch_loop(); });
  wait_for_all_joined(watch);
}

void Control::Impl::look_at_local_peers() {
  // The parent of `--ranks N` sees its children end, and knows by which signal.
  if (world.source == LaunchSource::kLocal || !options.watch_local_processes) return;
  LocalPeers peers(main_store->get_to_str(place_key()), world.rank);
  const std::lock_guard lock(mutex);
  local_peers = std::move(peers);
}

// A job that was started with the address and port of a running one must not end that.
void Control::Impl::refuse_to_join(const std::string& why) {
  is_intruder = true;
  throw input_error("MASTER_PORT",
                    fmt::format("{} is another job's: {}", with_port(world.master_addr, world.master_port), why),
                    "every job needs a MASTER_PORT of its own");
}

void Control::Impl::check_served_run(c10d::Store& store, StartWatch& watch) {
  watch.waits_for(fmt::format("the run that is served at {}: does another program use this port?",
                              with_port(world.master_addr, world.master_port)));
  PollPause pause;
  std::optional<std::string> served;
  while (!(served = try_get(store, kServedRunKey))) {
    if (Clock::now() > watch.deadline()) refuse_to_join("it serves no run of moraine");
    pause();
  }
  if (*served != world.run_id)
    refuse_to_join(fmt::format("it serves run '{}', this is '{}'", served->substr(0, 100), world.run_id));
}

// Each rank's key is claimed by one process for good. Who comes first stays.
void Control::Impl::check_identity() {
  const std::string size = std::to_string(world.world_size);
  const std::string theirs = main_store->compareSet("world_size", std::string(), size);
  const std::string self = fmt::format("{} process {}", host_name(), getpid());
  const std::string key = fmt::format("rank/{}", world.rank);
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  const Json info{{"host", host_name()},
                  {"node_rank", world.node_rank},
                  {"local_rank", world.local_rank},
                  {"process_id", static_cast<int64_t>(getpid())},
                  {"process_start", process_start(getpid()).value_or(0)},
                  {"joined", fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", utc)}};
  const std::string own = info.dump();
  const std::string taken =
      theirs == size ? main_store->compareSet(key, std::string(), own) : try_get(*main_store, key).value_or(own);
  if (taken != own) {
    const RankInfo other = read_rank_info(world.rank, taken);
    refuse_to_join(fmt::format("its rank {} is {} process {}, since {}, and not {}", world.rank, other.host,
                               other.process_id, other.joined, self));
  }
  if (theirs == size) return;
  if (main_store->add("joined", 0) >= std::max<int64_t>(1, std::atoll(theirs.c_str()))) {
    refuse_to_join(fmt::format("it has {} ranks and all have come, this is rank {} of {}", theirs.substr(0, 20),
                               world.rank, size));
  }
  throw input_error("WORLD_SIZE", fmt::format("is {} on rank {} ({}), but {} on another rank", size, world.rank, self,
                                              theirs.substr(0, 20)));
}

void Control::Impl::wait_for_all_joined(StartWatch& watch) {
  PollPause pause;
  Clock::time_point next_look = Clock::now() + milliseconds(100);
  for (int64_t joined = 0, seen = 0; joined < world.world_size; seen = joined) {
    joined = main_store->add("joined", 0);
    if (joined != seen) look_at_local_peers();  // one that dies before all have come is named too
    const bool late = Clock::now() > watch.deadline();
    if (late || Clock::now() > next_look) {
      std::vector<std::string> missing;
      int64_t first = -1;  // of those that have come
      for (int64_t rank = 0; rank < world.world_size && missing.size() < 8; ++rank) {
        const bool has_come = main_store->check({fmt::format("rank/{}", rank)});
        if (!has_come) missing.push_back(std::to_string(rank));
        if (has_come && first < 0) first = rank;
      }
      const std::string who = fmt::format("rank {}{}", fmt::join(missing, ", "), missing.size() == 8 ? ", …" : "");
      const std::string hint =
          world.source == LaunchSource::kSlurm
              ? "in a shell of srun --pty only rank 0 runs: start moraine by srun itself, or unset SLURM_PROCID"
              : "";
      if (late && !missing.empty()) {
        throw run_error("start", fmt::format("no sign of {} within {}", who, seconds_text(options.start_timeout)),
                        hint);
      }
      if (late)
        throw run_error("start",
                        fmt::format("not all ranks have joined within {}", seconds_text(options.start_timeout)), hint);
      watch.waits_for(fmt::format("{}: {} of {} ranks have come{}", who, joined, world.world_size,
                                  hint.empty() ? "" : " (" + hint + ")"),
                      first == world.rank);
      next_look = Clock::now() + milliseconds(2000);
    }
    pause();
  }
}

const std::vector<RankInfo>& Control::Impl::ranks() {
  {
    const std::lock_guard lock(mutex);
    if (!rank_infos.empty()) return rank_infos;
  }
  std::vector<RankInfo> infos(world.world_size);
  for (int64_t rank = 0; rank < world.world_size; ++rank) {
    RankInfo& info = infos[rank];
    info.rank = rank;
    if (world.world_size == 1) {
      info.host = host_name();
      info.process_id = getpid();
      continue;
    }
    info = read_rank_info(
        rank, with_main_store([&](c10d::Store& store) { return store.get_to_str(fmt::format("rank/{}", rank)); }));
  }
  const std::lock_guard lock(mutex);
  if (rank_infos.empty()) rank_infos = std::move(infos);
  return rank_infos;
}

std::string Control::Impl::rank_text(int64_t rank) {
  if (world.num_nodes <= 1) return fmt::format("rank {}", rank);
  if (rank == world.rank) return fmt::format("rank {} ({})", rank, host_name());
  // Read from the store for this one rank: this also runs on the beating thread, and when ranks are missing.
  const auto info = try_get(*beat_store, fmt::format("rank/{}", rank));
  return fmt::format("rank {} ({})", rank, info ? read_rank_info(rank, *info).host : "?");
}

}  // namespace moraine
