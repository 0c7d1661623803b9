// The threads of the control plane: one beats and looks what became of the others, one watches that the first gets
// answers.
#include <fmt/ranges.h>

#include <cstring>

#include "distributed/control/control_impl.h"

namespace moraine {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {
// Larger worlds poll less, to spare the host of the store.
constexpr int64_t kSmallWorld = 64;
}  // namespace

Heartbeat Control::Impl::current_beat(uint64_t count) {
  Heartbeat beat;
  beat.count = count;
  beat.done = done;
  beat.end_signal = end_signal;
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
  int told_signal = 0;
  for (;;) {
    const Clock::time_point now = Clock::now();
    bool beat_now = now >= next_beat || told_signal != end_signal;
    told_signal = end_signal;
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
      const auto beat = read_heartbeat(try_get(*beat_store, heartbeat_key(watched)));
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
    // A new stage goes out at once, for whoever must say where this rank died; not so often that short steps flood the
    // store.
    wake.wait_for(lock, poll_period(), [&] {
      return stop_beat || told_signal != end_signal ||
             (stage_changed && world.world_size <= kSmallWorld && Clock::now() - last_beat >= milliseconds(100));
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
    beats[rank] = read_heartbeat(try_get(store, heartbeat_key(rank)));
  }
  return beats;
}

// A rank on this machine whose process has ended before its work was done.
std::optional<ErrorReport> Control::Impl::ended_peer(c10d::Store& store) {
  // A signal for all ranks does not reach them at the same moment: one that it ended is a reason only for those that
  // are never asked themselves.
  constexpr milliseconds kSignalsApart(1500);
  LocalPeers peers;
  {
    const std::lock_guard lock(mutex);
    peers = local_peers;
  }
  // A rank that ends in order says so first, so its last word is read after its end was seen. One that ends by an error
  // has published it, and then this report is not the first.
  for (int64_t rank : peers.ended()) {
    const Heartbeat beat = read_heartbeat(try_get(store, heartbeat_key(rank))).value_or(Heartbeat{});
    if (beat.done) continue;
    if (beat.end_signal != 0) {
      const std::lock_guard lock(mutex);
      const Clock::time_point seen = asked_peers.emplace(rank, Clock::now()).first->second;
      if (end_signal != 0 || Clock::now() - seen < kSignalsApart) continue;
      return ErrorReport{.rank = rank,
                         .text = fmt::format("{}: ended by SIG{}, stage: {}", rank_text(rank),
                                             sigabbrev_np(beat.end_signal), beat.stage)};
    }
    return ErrorReport{
        .rank = rank,
        .text = fmt::format("{}: its process is gone, last stage: {} (killed, or out of memory? dmesg tells)",
                            rank_text(rank), beat.stage)};
  }
  return std::nullopt;
}

// Known only where all ranks are on this machine.
bool Control::Impl::all_others_ended() {
  const std::lock_guard lock(mutex);
  return static_cast<int64_t>(local_peers.size()) == world.world_size - 1 &&
         local_peers.ended().size() == local_peers.size();
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

}  // namespace moraine
