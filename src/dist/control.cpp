#include "dist/control.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <set>
#include <thread>

#include "base/json.h"
#include "dist/control_store.h"
#include "dist/heartbeat.h"
#include "dist/local_peers.h"

namespace moraine {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

std::string seconds_text(Clock::duration time) {
  return fmt::format("{:.3g} s", std::chrono::duration<double>(time).count());
}

constexpr int64_t kSmallWorld = 64;

// Sleeps that grow, for polls that usually end at once.
class PollPause {
 public:
  void operator()() {
    std::this_thread::sleep_for(pause_);
    pause_ = std::min(pause_ * 2, milliseconds(50));
  }

 private:
  milliseconds pause_{1};
};

}  // namespace

ControlOptions ControlOptions::from_environment(const Environment& environment) {
  ControlOptions options;
  if (const auto text = environment("MORAINE_HEARTBEAT_SECONDS")) {
    double seconds = -1;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), seconds);
    if (error != std::errc() || end != text->data() + text->size() || !(seconds >= 0 && seconds < 1e6)) {
      throw input_error("MORAINE_HEARTBEAT_SECONDS", fmt::format("'{}' is not a number of seconds", *text),
                        "0 switches it off");
    }
    options.heartbeat_limit = milliseconds(static_cast<int64_t>(seconds * 1000));
    if (options.heartbeat_limit > milliseconds(0)) {
      options.heartbeat_period =
          std::clamp(milliseconds(options.heartbeat_limit / 8), milliseconds(20), options.heartbeat_period);
    }
  }
  return options;
}

struct Control::Impl {
  Impl(const WorldInfo& world, const ControlOptions& options) : world(world), options(options) {}

  WorldInfo world;
  ControlOptions options;
  std::atomic<int64_t> timeout_ms{0};
  CollectiveLog collectives;

  // The server's own connection lives as long as this object (rank 0 without an agent's store).
  c10::intrusive_ptr<c10d::Store> server;
  // One connection a thread: an operation on a store blocks the next one on the same connection.
  c10::intrusive_ptr<c10d::Store> main_store;  // calls of the program's own threads
  c10::intrusive_ptr<c10d::Store> beat_store;  // the beating thread

  mutable std::mutex mutex;  // guards stage, rank_infos and the sleep of the threads
  std::string stage = "start";
  bool stage_changed = false;
  std::vector<RankInfo> rank_infos;
  LocalPeers local_peers;
  std::condition_variable wake;
  bool stop_beat = false, stop_watch = false;
  std::atomic<bool> done{false};
  // Set by the one thread that ends this process.
  std::atomic<bool> leaving{false};
  // When the beating thread last had an answer from the store.
  std::atomic<Clock::rep> last_answer{0};
  std::thread beat_thread, watch_thread;

  bool serves() const { return server != nullptr; }
  milliseconds poll_period() const {
    // Bounds the load on the store's host: at most about 4,000 polls a second over all ranks.
    const milliseconds base = std::min(milliseconds(250), options.heartbeat_period);
    return std::max(base, milliseconds(world.world_size / 4));
  }

  // True for the one thread that may end the process. The others go on (the beating thread) or sleep (the rest).
  bool claim_leaving() { return !leaving.exchange(true); }
  [[noreturn]] void sleep_for_ever() {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }

  void join();
  void check_identity();
  void wait_for_all_joined();
  Heartbeat current_beat(uint64_t count);
  void beat_loop();
  void watch_loop();
  void look_for_overdue_collective();
  void wait_until_others_know(c10d::Store& store);
  [[noreturn]] void leave_with(const ErrorReport& report, c10d::Store& store);
  void report_and_leave(ErrorReport report, c10d::Store& store);
  [[noreturn]] void store_lost(bool silent_host, const std::string& how);
  std::string rank_text(int64_t rank);
  std::string own_text(const std::string& stage_text);
  const std::vector<RankInfo>& ranks();
  std::vector<std::optional<Heartbeat>> all_heartbeats(c10d::Store& store);
  std::optional<ErrorReport> ended_peer(c10d::Store& store);
};

// ------------------------------------------------------------------------------------------------ joining

void Control::Impl::join() {
  quiet_torch_logs();
  const std::string prefix = control_prefix(world);
  if (world.rank == 0 && !world.agent_store) server = with_prefix(prefix, serve_store(world));
  main_store = with_prefix(prefix, connect_store(world, options.start_timeout));
  beat_store = with_prefix(prefix, connect_store(world, options.start_timeout));
  check_identity();
  last_answer = Clock::now().time_since_epoch().count();
  beat_store->set(heartbeat_key(world.rank), current_beat(1).to_json());
  const std::string line = LocalPeer::own_line(world.rank), place = "place/" + process_place();
  main_store->append(place, std::vector<uint8_t>(line.begin(), line.end()));
  main_store->add("joined", 1);
  beat_thread = std::thread([this] { beat_loop(); });
  watch_thread = std::thread([this] { watch_loop(); });
  wait_for_all_joined();
  // The parent of `--ranks N` sees its children end, and knows by which signal.
  if (world.source != LaunchSource::kLocal && options.watch_local_processes) {
    LocalPeers peers(main_store->get_to_str(place), world.rank);
    const std::lock_guard lock(mutex);
    local_peers = std::move(peers);
  }
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
  while (main_store->add("joined", 0) < world.world_size) {
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
    const Json json = Json::parse(main_store->get_to_str(fmt::format("rank/{}", rank)));
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

// ------------------------------------------------------------------------------------------------ threads

Heartbeat Control::Impl::current_beat(uint64_t count) {
  Heartbeat beat;
  beat.count = count;
  beat.done = done;
  {
    const std::lock_guard lock(mutex);
    beat.stage = stage;
  }
  const auto last = collectives.last(1);
  if (!last.empty()) beat.last_collective = last[0].describe();
  beat.sequences = collectives.sequences();
  return beat;
}

void Control::Impl::beat_loop() try {
  uint64_t count = 1;
  Clock::time_point next_beat = Clock::now(), last_beat = next_beat;
  int64_t watched = (world.rank + 1) % world.world_size;
  HeartbeatWatch watch(Clock::now());
  for (;;) {
    const Clock::time_point now = Clock::now();
    bool beat_now = now >= next_beat;
    bool stopping = false;
    {
      const std::lock_guard lock(mutex);
      if (stage_changed) beat_now = true;
      stage_changed = false;
      stopping = stop_beat;
    }
    if (beat_now || stopping) {
      beat_store->set(heartbeat_key(world.rank), current_beat(++count).to_json());
      last_beat = now;
      next_beat = now + options.heartbeat_period;
    }
    if (stopping) return;
    if (const auto error = try_get(*beat_store, kErrorKey)) {
      // When this rank is the one that reports, another of its threads is on the way out: go on beating meanwhile.
      if (claim_leaving()) leave_with(ErrorReport::from_json(*error), *beat_store);
    }
    // In large worlds only as often as heartbeats come, to spare the store's host.
    if (watched != world.rank && !leaving && (beat_now || world.world_size <= kSmallWorld)) {
      const auto text = try_get(*beat_store, heartbeat_key(watched));
      const auto beat = text ? std::optional(Heartbeat::from_json(*text)) : std::nullopt;
      const Clock::duration silent = watch.look(beat, Clock::now());
      if (beat && beat->done) {
        watched = (watched + 1) % world.world_size;
        watch = HeartbeatWatch(Clock::now());
      } else if (beat && options.heartbeat_limit > milliseconds(0) && silent > options.heartbeat_limit) {
        report_and_leave({.rank = watched,
                          .text = fmt::format("{}: no heartbeat for {}, last stage: {} (the process was killed or "
                                              "stopped, or its host is lost)",
                                              rank_text(watched), seconds_text(options.heartbeat_limit), beat->stage)},
                         *beat_store);
      }
    }
    if (!leaving) {
      if (auto report = ended_peer(*beat_store)) report_and_leave(*report, *beat_store);
    }
    look_for_overdue_collective();
    last_answer = Clock::now().time_since_epoch().count();
    std::unique_lock lock(mutex);
    // A new stage goes out at once, for whoever must say where this rank died; not so often that short steps flood the store.
    wake.wait_for(lock, poll_period(), [&] {
      return stop_beat || (stage_changed && world.world_size <= kSmallWorld && Clock::now() - last_beat >= milliseconds(100));
    });
  }
} catch (const std::exception& e) {
  if (done) return;  // rank 0 may have taken the store with it
  store_lost(false, exception_text(e));
}

void Control::Impl::watch_loop() {
  const milliseconds period(200);
  Clock::time_point last_look = Clock::now();
  Clock::duration not_running{0};  // time since the last answer in which this process itself was stopped
  Clock::rep seen_answer = last_answer;
  for (;;) {
    {
      std::unique_lock lock(mutex);
      wake.wait_for(lock, period, [this] { return stop_watch; });
      if (stop_watch || done) return;
    }
    const Clock::time_point now = Clock::now();
    if (now - last_look > 5 * period) not_running += now - last_look;
    last_look = now;
    if (last_answer != seen_answer) {
      seen_answer = last_answer;
      not_running = Clock::duration{0};
    }
    const Clock::duration silent = now.time_since_epoch() - Clock::duration(seen_answer) - not_running;
    if (options.heartbeat_limit > milliseconds(0) && silent > options.heartbeat_limit) {
      store_lost(true, fmt::format("no answer for {}", seconds_text(options.heartbeat_limit)));
    }
  }
}

std::vector<std::optional<Heartbeat>> Control::Impl::all_heartbeats(c10d::Store& store) {
  std::vector<std::optional<Heartbeat>> beats(world.world_size);
  for (int64_t rank = 0; rank < world.world_size; ++rank) {
    if (const auto text = try_get(store, heartbeat_key(rank))) beats[rank] = Heartbeat::from_json(*text);
  }
  return beats;
}

// A rank on this machine whose process has ended before its work was done.
std::optional<ErrorReport> Control::Impl::ended_peer(c10d::Store& store) {
  LocalPeers peers;
  {
    const std::lock_guard lock(mutex);
    peers = local_peers;
  }
  // A rank that ends in order says so first, so its last word is read after its end was seen. One that ends by an error
  // has published it, and then this report is not the first.
  for (int64_t rank : peers.ended()) {
    const auto text = try_get(store, heartbeat_key(rank));
    const Heartbeat beat = text ? Heartbeat::from_json(*text) : Heartbeat{};
    if (beat.done) continue;
    return ErrorReport{.rank = rank,
                       .text = fmt::format("{}: its process is gone, last stage: {} (killed, or out of memory? dmesg tells)",
                                           rank_text(rank), beat.stage)};
  }
  return std::nullopt;
}

void Control::Impl::look_for_overdue_collective() {
  const auto overdue = collectives.oldest_pending(Clock::now() - milliseconds(timeout_ms));
  if (!overdue) return;
  // Who has not come: the members of the group that have started fewer of its collectives than this rank.
  std::vector<std::string> behind;
  const auto beats = all_heartbeats(*beat_store);
  int64_t first_behind = world.rank;
  for (int64_t rank : overdue->ranks) {
    if (rank == world.rank || !beats[rank]) continue;
    const auto it = beats[rank]->sequences.find(overdue->group);
    if (it != beats[rank]->sequences.end() && it->second >= overdue->sequence) continue;
    if (behind.empty()) first_behind = rank;
    if (behind.size() < 3) {
      behind.push_back(fmt::format("{} has not come to it (stage {}, last collective: {})", rank_text(rank),
                                   beats[rank]->stage,
                                   beats[rank]->last_collective.empty() ? "none" : beats[rank]->last_collective));
    }
  }
  std::string text = fmt::format("{}: {} has not ended within {}, stage {}{}{} (dist.timeout_seconds sets the limit)",
                                 rank_text(world.rank), overdue->describe(), seconds_text(milliseconds(timeout_ms)),
                                 current_beat(0).stage, behind.empty() ? "" : "; ", fmt::join(behind, "; "));
  for (const CollectiveRecord& record : collectives.last(4)) {
    text += fmt::format("\n  {} {}: {}", rank_text(world.rank), record.done ? "ended" : "began", record.describe());
  }
  report_and_leave({.rank = first_behind, .text = text}, *beat_store);
}

// ------------------------------------------------------------------------------------------------ leaving

// With the store goes what is in it: whoever serves it stays until the others have read the error.
void Control::Impl::wait_until_others_know(c10d::Store& store) try {
  if (!serves()) {
    store.add(kGoneKey, 1);
    return;
  }
  // Ranks that died never answer, and some may still be starting.
  const auto deadline = Clock::now() + (store.add("joined", 0) < world.world_size ? milliseconds(10000) : milliseconds(2500));
  PollPause pause;
  while (store.add(kGoneKey, 0) + store.add(kDoneKey, 0) < world.world_size - 1 && Clock::now() < deadline) pause();
} catch (const std::exception&) {
  // The store is gone: nobody is left to tell.
}

void Control::Impl::leave_with(const ErrorReport& report, c10d::Store& store) {
  wait_until_others_know(store);
  std::_Exit(report.exit_code);
}

// Ends the process with `report` (or with whatever was reported first); returns only when another thread ends it.
void Control::Impl::report_and_leave(ErrorReport report, c10d::Store& store) {
  if (!claim_leaving()) return;
  report.reporter = world.rank;
  const bool first = publish_error(store, report);
  if (first && world.source != LaunchSource::kLocal) print_error(report.text);
  const auto published = try_get(store, kErrorKey);
  leave_with(published ? ErrorReport::from_json(*published) : report, store);
}

// The store's host is dead (`silent_host` = it does not even refuse). Nothing can be agreed any more, so a fixed rank
// prints: the lowest that can still be there.
void Control::Impl::store_lost(bool silent_host, const std::string& how) {
  if (!claim_leaving()) sleep_for_ever();
  const bool first_of_next_node = world.node_rank == 1 && world.local_rank == 0;
  bool prints = world.agent_store ? world.rank == 0 : world.rank == 1;
  // A silent host may have taken all its ranks with it.
  if (silent_host && world.num_nodes > 1) prints = prints || first_of_next_node;
  if (world.source == LaunchSource::kLocal) prints = false;  // the parent tells, or is gone
  if (prints) {
    const std::string where = world.agent_store ? "the launcher" : "rank 0";
    print_error(fmt::format("{}: its control store at {}:{} is lost: {} (the process was killed or stopped, or its host "
                            "is lost)",
                            where, world.master_addr, world.master_port, how));
  }
  std::_Exit(1);
}

// ------------------------------------------------------------------------------------------------ interface

Control::Control(const WorldInfo& world, const ControlOptions& options)
    : impl_(std::make_unique<Impl>(world, options)) {
  impl_->timeout_ms = options.timeout.count();
  if (!world.distributed()) return;
  try {
    impl_->join();
  } catch (const Error& e) {
    if (!impl_->main_store) throw;  // nobody can be told
    std::_Exit(fail(e));
  }
}

Control::~Control() {
  if (!impl_->beat_thread.joinable()) return;
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop_beat = true;
  }
  impl_->wake.notify_all();
  impl_->beat_thread.join();  // the watching thread still sees to it that this ends
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop_watch = true;
  }
  impl_->wake.notify_all();
  impl_->watch_thread.join();
}

const WorldInfo& Control::world() const { return impl_->world; }
void Control::set_timeout(milliseconds timeout) { impl_->timeout_ms = timeout.count(); }
milliseconds Control::timeout() const { return milliseconds(impl_->timeout_ms); }
CollectiveLog& Control::collectives() { return impl_->collectives; }
const std::vector<RankInfo>& Control::ranks() { return impl_->ranks(); }
std::string Control::rank_text(int64_t rank) { return impl_->rank_text(rank); }

void Control::set_stage(const std::string& stage) {
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->stage == stage) return;
    impl_->stage = stage;
    impl_->stage_changed = true;
  }
  impl_->wake.notify_all();
}

std::string Control::stage() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->stage;
}

void Control::put(const std::string& key, const std::string& value) {
  MORAINE_ASSERT(impl_->main_store, "one process has no store");
  impl_->main_store->set("shared/" + key, value);
}

std::string Control::wait_for(const std::string& key, const std::string& what, Patience patience) {
  MORAINE_ASSERT(impl_->main_store, "one process has no store");
  const auto deadline = Clock::now() + timeout();
  PollPause pause;
  for (;;) {
    if (auto value = try_get(*impl_->main_store, "shared/" + key)) return *value;
    if (patience == Patience::kTimeout && Clock::now() > deadline) {
      throw run_error(rank_text(world().rank), fmt::format("waited {} for {}", seconds_text(timeout()), what),
                      "dist.timeout_seconds sets the limit");
    }
    pause();
  }
}

void Control::barrier(const std::string& name, Patience patience) {
  if (!world().distributed()) return;
  const std::string key = "barrier/" + name;
  const auto deadline = Clock::now() + timeout();
  int64_t come = impl_->main_store->add(key, 1);
  PollPause pause;
  while (come < world().world_size) {
    if (patience == Patience::kTimeout && Clock::now() > deadline) {
      throw run_error(rank_text(world().rank),
                      fmt::format("waited {} at '{}': {} of {} ranks have come", seconds_text(timeout()), name, come,
                                  world().world_size),
                      "dist.timeout_seconds sets the limit");
    }
    pause();
    come = impl_->main_store->add(key, 0);
  }
}

c10::intrusive_ptr<c10d::Store> Control::rendezvous_store(const std::string& name) {
  MORAINE_ASSERT(world().distributed(), "one process has no store");
  return with_prefix(control_prefix(world()) + "/group/" + name, connect_store(world(), impl_->options.start_timeout));
}

void Control::collective_failed(uint64_t collective_id, const std::string& what) {
  // A rank that dies closes its connections, so its peers see errors at once, but these name an address, not the reason.
  // Look who does not beat any more; a rank that ended with an error of its own, or the parent of `--ranks N`, has
  // meanwhile told so, and then the beating thread ends this process.
  const auto record = impl_->collectives.find(collective_id);
  const std::string name = record ? record->describe() : "a collective";
  try {
    if (const auto ended = impl_->ended_peer(*impl_->main_store)) {
      impl_->report_and_leave(*ended, *impl_->main_store);
      impl_->sleep_for_ever();
    }
    const auto wait = std::max<Clock::duration>(5 * impl_->options.heartbeat_period / 2 + milliseconds(250), milliseconds(1500));
    const auto before = impl_->all_heartbeats(*impl_->main_store);
    const auto deadline = Clock::now() + wait;
    std::vector<int64_t> silent;
    do {
      std::this_thread::sleep_for(milliseconds(100));
      const auto now = impl_->all_heartbeats(*impl_->main_store);
      silent.clear();
      for (int64_t rank = 0; rank < world().world_size; ++rank) {
        if (rank != world().rank && before[rank] && !before[rank]->done && now[rank]->count == before[rank]->count) {
          silent.push_back(rank);
        }
      }
    } while (!silent.empty() && Clock::now() < deadline);
    if (!silent.empty()) {
      const auto& beat = before[silent[0]];
      throw run_error(rank_text(silent[0]),
                      fmt::format("lost in {}: its connections closed and it has no heartbeat, last stage: {}", name,
                                  beat->stage),
                      "the process was killed or stopped, or its host is lost");
    }
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    impl_->store_lost(false, exception_text(e));
  }
  throw run_error(rank_text(world().rank), fmt::format("{} failed: {}", name, what));
}

int Control::fail(const Error& error) {
  const int own_code = static_cast<int>(error.kind);
  if (!world().distributed()) {
    print_error(error.what());
    return own_code;
  }
  if (!impl_->claim_leaving()) impl_->sleep_for_ever();
  // A mistake in the recipe is the same on every rank; for everything else, and with several hosts, say where it was.
  std::string text = error.what();
  const std::string self = rank_text(world().rank);
  const bool says_rank = text.rfind("rank ", 0) == 0;
  if (!says_rank && (error.kind == ErrorKind::kRun || world().num_nodes > 1)) {
    text = fmt::format("{}, {}: {}", self, stage(), text);
  }
  try {
    const bool first = publish_error(*impl_->main_store, {.rank = world().rank,
                                                          .reporter = world().rank,
                                                          .exit_code = own_code,
                                                          .text = text});
    if (first && world().source != LaunchSource::kLocal) print_error(text);
    const auto published = try_get(*impl_->main_store, kErrorKey);
    impl_->wait_until_others_know(*impl_->main_store);
    return published ? ErrorReport::from_json(*published).exit_code : own_code;
  } catch (const std::exception&) {
    print_error(text);  // nobody can be told
    return own_code;
  }
}

void Control::finish() {
  if (!world().distributed()) return;
  if (!impl_->serves()) {
    impl_->done = true;  // from here on rank 0 may take the store away
    try {
      impl_->main_store->add(kDoneKey, 1);
    } catch (const std::exception&) {
      // The work is done; whoever is missing is found by the others.
    }
    return;
  }
  PollPause pause;
  while (impl_->main_store->add(kDoneKey, 0) < world().world_size - 1) pause();
  impl_->done = true;
}

}  // namespace moraine
