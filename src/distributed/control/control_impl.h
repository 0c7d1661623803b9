// What the parts of the control plane share: control.cpp (the interface), control_join.cpp (the start),
// control_watch.cpp (the threads that beat and watch), control_end.cpp (errors and the end). For these files only.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "distributed/control/control.h"
#include "distributed/control/control_store.h"
#include "distributed/control/end_signals.h"
#include "distributed/control/heartbeat.h"
#include "distributed/control/local_peers.h"
#include "distributed/control/start_watch.h"

namespace moraine {

inline std::string seconds_text(std::chrono::steady_clock::duration time) {
  return fmt::format("{:.3g} s", std::chrono::duration<double>(time).count());
}

// Sleeps that grow, for polls that usually end at once.
class PollPause {
 public:
  void operator()() {
    std::this_thread::sleep_for(pause_);
    pause_ = std::min(pause_ * 2, std::chrono::milliseconds(50));
  }

 private:
  std::chrono::milliseconds pause_{1};
};

struct Control::Impl {
  using Clock = std::chrono::steady_clock;
  using milliseconds = std::chrono::milliseconds;

  Impl(const WorldInfo& world, const ControlOptions& options) : world(world), options(options) {}

  WorldInfo world;
  ControlOptions options;
  std::atomic<int64_t> timeout_ms{0};
  CollectiveLog collectives;

  bool is_intruder = false;  // the store is another world's: nothing may be written to it

  // The server's own connection lives as long as this object (rank 0 without an agent's store).
  c10::intrusive_ptr<c10d::Store> server;
  // One connection a thread: an operation on a store blocks the next one on the same connection.
  c10::intrusive_ptr<c10d::Store> main_store;  // calls of the program's own threads
  c10::intrusive_ptr<c10d::Store> beat_store;  // the beating thread

  mutable std::mutex mutex;  // guards stage, rank_infos, local_peers, asked_peers and the sleep of the threads
  std::string stage = "start";
  bool stage_changed = false;
  std::vector<RankInfo> rank_infos;
  LocalPeers local_peers;
  std::map<int64_t, Clock::time_point> asked_peers;  // local ranks that a signal asked to end: when they were seen gone
  std::condition_variable wake;
  bool stop_beat = false, stop_watch = false;
  std::atomic<bool> done{false};
  // Set by the one thread that ends this process.
  std::atomic<bool> leaving{false};
  // The signal that asked this rank to end.
  std::atomic<int> end_signal{0};
  // When the beating thread last had an answer from the store.
  std::atomic<Clock::rep> last_answer{0};
  std::atomic<bool> beating{false};
  std::thread beat_thread, watch_thread;
  std::unique_ptr<EndSignals> end_signals;  // last: its thread uses the rest

  bool serves() const { return server != nullptr; }
  milliseconds poll_period() const {
    // Bounds the load on the store's host: at most about 4,000 polls per second over all ranks.
    if (end_signal != 0) return milliseconds(20);  // not for long
    const milliseconds base = std::min(milliseconds(250), options.heartbeat_period);
    return std::max(base, milliseconds(world.world_size / 4));
  }

  // True for the one thread that may end the process. The others go on (the beating thread) or sleep (the rest).
  bool claim_leaving() { return !leaving.exchange(true); }
  [[noreturn]] void sleep_for_ever() {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }

  // What the program's own threads do with the store. When it is gone, so is the world.
  template <typename Op>
  auto with_main_store(Op&& op) {
    MORAINE_ASSERT(main_store, "one process has no store");
    try {
      return op(*main_store);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& e) {
      store_lost(false, exception_text(e));
    }
  }

  // control_join.cpp
  void join();
  void check_served_run(c10d::Store& store, StartWatch& watch);
  void check_identity();
  [[noreturn]] void refuse_to_join(const std::string& why);
  void wait_for_all_joined(StartWatch& watch);
  void look_at_local_peers();
  const std::vector<RankInfo>& ranks();
  std::string rank_text(int64_t rank);

  // control_watch.cpp
  void beat_loop();
  void watch_loop();
  Heartbeat current_beat(uint64_t count);
  std::vector<std::optional<Heartbeat>> all_heartbeats(c10d::Store& store);
  std::optional<ErrorReport> ended_peer(c10d::Store& store);
  bool all_others_ended();
  void look_for_overdue_collective();

  // control_end.cpp
  void asked_to_end(EndSignals& signals, int number);
  [[noreturn]] void end_process(int exit_code);
  void wait_until_others_know(c10d::Store& store);
  [[noreturn]] void leave_with(const ErrorReport& report, c10d::Store& store);
  void report_and_leave(ErrorReport report, c10d::Store& store);
  [[noreturn]] void store_lost(bool silent_host, const std::string& how);
};

}  // namespace moraine
