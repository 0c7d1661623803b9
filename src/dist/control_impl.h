// What the parts of the control plane share: control.cpp (the interface), control_join.cpp (the start), control_watch.cpp
// (the threads that beat and watch), control_end.cpp (errors and the end). For these files only.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dist/control.h"
#include "dist/control_store.h"
#include "dist/heartbeat.h"
#include "dist/local_peers.h"

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

  // control_join.cpp
  void join();
  void check_identity();
  void wait_for_all_joined();
  const std::vector<RankInfo>& ranks();
  std::string rank_text(int64_t rank);

  // control_watch.cpp
  void beat_loop();
  void watch_loop();
  Heartbeat current_beat(uint64_t count);
  std::vector<std::optional<Heartbeat>> all_heartbeats(c10d::Store& store);
  std::optional<ErrorReport> ended_peer(c10d::Store& store);
  void look_for_overdue_collective();

  // control_end.cpp
  void wait_until_others_know(c10d::Store& store);
  [[noreturn]] void leave_with(const ErrorReport& report, c10d::Store& store);
  void report_and_leave(ErrorReport report, c10d::Store& store);
  [[noreturn]] void store_lost(bool silent_host, const std::string& how);
};

}  // namespace moraine
