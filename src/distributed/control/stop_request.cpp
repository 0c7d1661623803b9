#include "distributed/control/stop_request.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

namespace moraine {
namespace {

// What a signal handler may reach: a process has one set of signals.
std::atomic<bool> is_armed{false};
std::atomic<int> asked_by{0};
std::atomic<int64_t> asked_at{0};
char notice_text[256];
size_t notice_size = 0;

int64_t now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

void on_signal(int number) {
  const int error = errno;
  if (!StopRequest::take(number)) {
    signal(number, SIG_DFL);
    raise(number);  // comes when this handler returns
  }
  errno = error;
}

// Signals that are ignored (nohup) stay so.
void handle(int number, struct sigaction& before) {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (int other : kRequestSignals) sigaddset(&action.sa_mask, other);
  sigaction(number, nullptr, &before);
  if (before.sa_handler != SIG_IGN) sigaction(number, &action, nullptr);
}

}  // namespace

bool is_request_signal(int number) {
  return std::find(std::begin(kRequestSignals), std::end(kRequestSignals), number) != std::end(kRequestSignals);
}

// Ranks of a world block these signals and take them on a thread (EndSignals); the handlers are for a process without
// one.
StopRequest::StopRequest(Armed armed, const std::string& notice) : armed_(armed == Armed::kYes) {
  if (!armed_) return;
  const std::string line =
      notice.empty() ? "" : (isatty(STDOUT_FILENO) ? "\r\033[K" : "") + notice + "\n";  // over a progress bar
  notice_size = std::min(line.size(), sizeof notice_text);
  memcpy(notice_text, line.data(), notice_size);
  asked_by = 0;
  asked_at = 0;
  is_armed = true;
  for (size_t i = 0; i < std::size(kRequestSignals); ++i) handle(kRequestSignals[i], before_[i]);
}

StopRequest::~StopRequest() {
  if (!armed_) return;
  is_armed = false;
  for (size_t i = 0; i < std::size(kRequestSignals); ++i) sigaction(kRequestSignals[i], &before_[i], nullptr);
}

bool StopRequest::take(int number) {
  if (!is_armed || !is_request_signal(number)) return false;
  int none = 0;
  if (!asked_by.compare_exchange_strong(none, number)) {
    const int64_t first = asked_at;  // 0: another thread is about to say it
    return first == 0 || now() - first < std::chrono::nanoseconds(kSameRequest).count();
  }
  asked_at = now();
  [[maybe_unused]] const ssize_t written = write(STDOUT_FILENO, notice_text, notice_size);
  return true;
}

int StopRequest::asked() const { return armed_ ? asked_by.load() : 0; }

std::string signal_name(int number) {
  const char* name = sigabbrev_np(number);
  return std::string("SIG") + (name ? name : "?");
}

}  // namespace moraine
