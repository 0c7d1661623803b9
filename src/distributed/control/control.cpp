#include "distributed/control/control.h"

#include <charconv>
#include <cstdlib>

#include "distributed/control/control_impl.h"

namespace moraine {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

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

void ControlOptions::set_timeout(milliseconds limit) {
  timeout = limit;
  start_timeout = std::min(start_timeout, limit);
}

Control::Control(const WorldInfo& world, const ControlOptions& options)
    : impl_(std::make_unique<Impl>(world, options)) {
  impl_->timeout_ms = options.timeout.count();
  if (!world.distributed()) return;
  try {
    impl_->join();
  } catch (const Error& e) {
    if (!impl_->main_store || impl_->is_intruder) throw;  // nobody can, or should, be told
    std::_Exit(fail(e));
  } catch (const std::exception& e) {
    impl_->store_lost(false, exception_text(e));
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
  impl_->with_main_store([&](c10d::Store& store) { store.set("shared/" + key, value); });
}

std::string Control::wait_for(const std::string& key, const std::string& what, Patience patience) {
  return impl_->with_main_store([&](c10d::Store& store) {
    const auto deadline = Clock::now() + timeout();
    PollPause pause;
    for (;;) {
      if (auto value = try_get(store, "shared/" + key)) return *value;
      if (patience == Patience::kTimeout && Clock::now() > deadline) {
        throw run_error(rank_text(world().rank), fmt::format("waited {} for {}", seconds_text(timeout()), what),
                        "dist.timeout_seconds sets the limit");
      }
      pause();
    }
  });
}

void Control::barrier(const std::string& name, Patience patience) {
  if (!world().distributed()) return;
  impl_->with_main_store([&](c10d::Store& store) {
    const std::string key = "barrier/" + name;
    const auto deadline = Clock::now() + timeout();
    int64_t come = store.add(key, 1);
    PollPause pause;
    while (come < world().world_size) {
      if (patience == Patience::kTimeout && Clock::now() > deadline) {
        throw run_error(rank_text(world().rank),
                        fmt::format("waited {} at '{}': {} of {} ranks have come", seconds_text(timeout()), name, come,
                                    world().world_size),
                        "dist.timeout_seconds sets the limit");
      }
      pause();
      come = store.add(key, 0);
    }
  });
}

c10::intrusive_ptr<c10d::Store> Control::rendezvous_store(const std::string& name) {
  return impl_->with_main_store([&](c10d::Store& store) {
    try {
      return with_prefix(control_prefix(world()) + "/group/" + name,
                         connect_store(world(), impl_->options.start_timeout));
    } catch (const Error&) {
      store.add(kGoneKey, 0);  // is the store itself lost?
      throw;
    }
  });
}

}  // namespace moraine
