// The signals of a StopRequest and SIGHUP: how a launcher, or a user, ends a rank. They are taken on a thread of its
// own, which may use locks and the network; a signal handler may not.
#pragma once

#include <signal.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

namespace moraine {

// Whether the signal is ignored, as nohup and background jobs of a shell have it.
bool is_ignored_signal(int number);

class EndSignals {
 public:
  // When one of the signals comes, calls `asked` on the thread, and when that returns ends the process by the signal.
  // Blocks the signals for this thread and those that it will start: make it before others. Signals that are ignored
  // (nohup) stay so, and one that a StopRequest takes is only noted there.
  explicit EndSignals(std::function<void(EndSignals&, int number)> asked);
  // From here on they end the process the usual way.
  ~EndSignals();
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

  // For `asked`: sleeps; the next signal cuts it short.
  void pause(std::chrono::milliseconds time);

 private:
  void run();

  std::function<void(EndSignals&, int)> asked_;
  sigset_t taken_, before_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace moraine
