#include "distributed/control/start_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "base/log.h"
#include "distributed/control/control_store.h"

namespace moraine {

using std::chrono::milliseconds;

StartWatch::StartWatch(std::string who, milliseconds quiet, milliseconds limit)
    : who_(std::move(who)),
      quiet_(quiet),
      limit_(limit),
      began_(Clock::now()),
      deadline_(began_ + limit),
      thread_([this] { run(); }) {}

StartWatch::~StartWatch() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

milliseconds StartWatch::time_left() const {
  return std::max(milliseconds(1), std::chrono::duration_cast<milliseconds>(deadline_ - Clock::now()));
}

void StartWatch::waits_for(const std::string& what, bool speaks) {
  const std::lock_guard lock(mutex_);
  what_ = what;
  speaks_ = speaks;
}

void StartWatch::run() {
  constexpr milliseconds kLook(200), kGrace(3000);
  bool spoken = false;
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kLook, [this] { return stop_; })) {
    const Clock::time_point now = Clock::now();
    if (!spoken && speaks_ && !what_.empty() && now > began_ + quiet_ && now < deadline_) {
      spoken = true;
      log_warning(
          fmt::format("{} has waited {:.3g} s for {}", who_, std::chrono::duration<double>(quiet_).count(), what_));
    }
    if (now > deadline_ + kGrace) {
      print_error(run_error("start", fmt::format("{} has waited {:.3g} s for {}", who_,
                                                 std::chrono::duration<double>(limit_).count(),
                                                 what_.empty() ? "the other ranks" : what_))
                      .what());
      std::_Exit(1);
    }
  }
}

}  // namespace moraine
