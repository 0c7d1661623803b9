// What a rank writes under its heartbeat key, and how another judges it.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace moraine {

struct Heartbeat {
  uint64_t count = 0;
  std::string stage;
  std::string last_collective;                // described, or empty
  std::map<std::string, uint64_t> sequences;  // collectives started, by group
  bool done = false;                          // finished its work: no more heartbeats will come
  int end_signal = 0;                         // it was asked to end by this signal and is about to

  std::string to_json() const;
  static Heartbeat from_json(const std::string& text);  // throws on what to_json() has not written
};
std::string heartbeat_key(int64_t rank);
// The heartbeat in `text`, which comes from the store: nullopt when there is none, or not a rank's.
std::optional<Heartbeat> read_heartbeat(const std::optional<std::string>& text);

// Watches one rank's heartbeat. Time is the watcher's own steady clock, so clocks of hosts need not agree.
class HeartbeatWatch {
 public:
  using Clock = std::chrono::steady_clock;
  explicit HeartbeatWatch(Clock::time_point now) : last_change_(now), last_look_(now) {}

  // Takes what was read at `now` and returns for how long the rank has been silent. Time in which the watcher itself
  // did not run (it was stopped, or waited for the store) does not count.
  Clock::duration look(const std::optional<Heartbeat>& beat, Clock::time_point now);

 private:
  std::optional<uint64_t> last_count_;
  Clock::time_point last_change_, last_look_;
};

}  // namespace moraine
