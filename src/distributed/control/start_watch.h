// Watches over the start of a rank, where there is no heartbeat yet: who waits for long says for what, once, and no
// wait lasts for ever.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace moraine {

class StartWatch {
 public:
  using Clock = std::chrono::steady_clock;
  // `who`: this rank, as it is named in what is printed. What still waits `quiet` after the construction is said in one
  // line (a warning). A wait that does not end by itself at the `limit` (a call into the network that does not return)
  // ends the process with exit code 1 and one line shortly after.
  StartWatch(std::string who, std::chrono::milliseconds quiet, std::chrono::milliseconds limit);
  // The rank has come in, or has failed.
  ~StartWatch();
  StartWatch(const StartWatch&) = delete;
  StartWatch& operator=(const StartWatch&) = delete;

  Clock::time_point deadline() const { return deadline_; }
  // At least a millisecond.
  std::chrono::milliseconds time_left() const;
  // From now on this rank waits for `what`. Where many ranks wait for the same, `speaks` is true on one of them.
  void waits_for(const std::string& what, bool speaks = true);

 private:
  void run();

  const std::string who_;
  const std::chrono::milliseconds quiet_, limit_;
  const Clock::time_point began_, deadline_;
  std::mutex mutex_;  // guards the rest
  std::condition_variable wake_;
  std::string what_;
  bool speaks_ = false, stop_ = false;
  std::thread thread_;
};

}  // namespace moraine
