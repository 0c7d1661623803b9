#include "distributed/control/end_signals.h"

#include <pthread.h>

#include "base/process.h"
#include "distributed/control/stop_request.h"

namespace moraine {

bool is_ignored_signal(int number) {
  struct sigaction action {};
  return sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

EndSignals::EndSignals(std::function<void(EndSignals&, int)> asked) : asked_(std::move(asked)) {
  sigemptyset(&taken_);
  for (int number : kRequestSignals) sigaddset(&taken_, number);
  sigaddset(&taken_, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &taken_, &before_);
  thread_ = std::thread([this] { run(); });
}

EndSignals::~EndSignals() {
  stop_ = true;
  pthread_kill(thread_.native_handle(), SIGTERM);  // wakes it, whatever it waits for
  thread_.join();
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

void EndSignals::run() {
  int number = 0;
  do {
    sigwait(&taken_, &number);
  } while (!stop_ && (is_ignored_signal(number) || StopRequest::take(number)));
  if (stop_) return;
  asked_(*this, number);
  if (!stop_) end_process_by(number);
}

void EndSignals::pause(std::chrono::milliseconds time) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  const timespec limit{.tv_sec = seconds.count(), .tv_nsec = std::chrono::nanoseconds(time - seconds).count()};
  sigtimedwait(&taken_, nullptr, &limit);
}

}  // namespace moraine
