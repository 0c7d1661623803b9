// How a rank joins the world, and who the others are.
#include <fmt/ranges.h>
#include <signal.h>
#include <unistd.h>

#include "base/json.h"
#include "dist/control_impl.h"

namespace moraine {

using Clock = std::chrono::steady_clock;

namespace {
// The processes of this machine, a line each.
std::string place_key() { return "place/" + process_place(); }
}  // namespace

void Control::Impl::join() {
  quiet_torch_logs();
  // The store writes to peers that may have gone: an error of theirs, not the end of this process. (Under Python torch has this from
  // Python.)
  ::signal(SIGPIPE, SIG_IGN);
  end_signals = std::make_unique<EndSignals>([this](EndSignals& signals, int number) { asked_to_end(signals, number); });
  const std::string prefix = control_prefix(world);
  if (world.rank == 0 && !world.agent_store) server = with_prefix(prefix, serve_store(world));
  main_store = with_prefix(prefix, connect_store(world, options.start_timeout));
  beat_store = with_prefix(prefix, connect_store(world, options.start_timeout));
  check_identity();
  last_answer = Clock::now().time_since_epoch().count();
  beat_store->set(heartbeat_key(world.rank), current_beat(1).to_json());
  const std::string line = LocalPeer::own_line(world.rank);
  main_store->append(place_key(), std::vector<uint8_t>(line.begin(), line.end()));
  main_store->add("joined", 1);
  beating = true;
  beat_thread = std::thread([this] { beat_loop(); });
  watch_thread = std::thread([this] { watch_loop(); });
  wait_for_all_joined();
}

void Control::Impl::look_at_local_peers() {
  // The parent of `--ranks N` sees its children end, and knows by which signal.
  if (world.source == LaunchSource::kLocal || !options.watch_local_processes) return;
  LocalPeers peers(main_store->get_to_str(place_key()), world.rank);
  const std::lock_guard lock(mutex);
  local_peers = std::move(peers);
}

void Control::Impl::check_identity() {
  const std::string size = std::to_string(world.world_size);
  const std::string theirs = main_store->compareSet("world_size", std::string(), size);
  const std::string self = fmt::format("{} process {}", host_name(), getpid());
  if (theirs != size) {
    throw input_error("WORLD_SIZE",
                      fmt::format("is {} on rank {} ({}), but {} on another rank", size, world.rank, self, theirs));
  }
  const Json info{{"host", host_name()},
                  {"node_rank", world.node_rank},
                  {"local_rank", world.local_rank},
                  {"process_id", static_cast<int64_t>(getpid())}};
  const std::string key = fmt::format("rank/{}", world.rank);
  const std::string taken = main_store->compareSet(key, std::string(), info.dump());
  if (taken != info.dump()) {
    const Json other = Json::parse(taken);
    throw input_error("RANK", fmt::format("{} is taken twice, by {} and by {} process {}", world.rank, self,
                                          other.value("host", "?"), other.value("process_id", int64_t{0})));
  }
}

void Control::Impl::wait_for_all_joined() {
  const auto deadline = Clock::now() + options.start_timeout;
  PollPause pause;
  for (int64_t joined = 0, seen = 0; joined < world.world_size; seen = joined) {
    joined = main_store->add("joined", 0);
    if (joined != seen) look_at_local_peers();  // one that dies before all have come is named too
    if (Clock::now() > deadline) {
      std::vector<std::string> missing;
      for (int64_t rank = 0; rank < world.world_size && missing.size() < 8; ++rank) {
        if (!main_store->check({fmt::format("rank/{}", rank)})) missing.push_back(std::to_string(rank));
      }
      throw run_error("start", fmt::format("no sign of rank {} within {}", fmt::join(missing, ", "),
                                           seconds_text(options.start_timeout)));
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
    const Json json = Json::parse(
        with_main_store([&](c10d::Store& store) { return store.get_to_str(fmt::format("rank/{}", rank)); }));
    info.host = json.at("host").get<std::string>();
    info.node_rank = json.at("node_rank").get<int64_t>();
    info.local_rank = json.at("local_rank").get<int64_t>();
    info.process_id = json.at("process_id").get<int64_t>();
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
  const std::string host = info ? Json::parse(*info).value("host", "?") : "?";
  return fmt::format("rank {} ({})", rank, host);
}

}  // namespace moraine
