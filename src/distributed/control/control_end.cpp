// How a rank ends: with its own error, with another rank's, or in order.
#include <cstdlib>

#include "base/process.h"
#include "distributed/control/control_impl.h"

namespace moraine {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// A launcher that sees one rank die ends the others by a signal, often before they have found out themselves. So the
// beating thread gets a moment to look for the reason and to tell it; a user's own signal has none, and nothing is
// said.
void Control::Impl::asked_to_end(EndSignals& signals, int number) {
  if (!beating) return;  // nobody could be told yet
  if (world.source == LaunchSource::kLocal)
    return;  // the parent of `--ranks N` has sent it, and looks after its children
  {
    const std::lock_guard lock(mutex);
    end_signal = number;
  }
  wake.notify_all();
  // Where the store goes with this process it goes last, lest the others take that for the reason.
  signals.pause(milliseconds(serves() ? 700 : 400));
  if (!claim_leaving()) signals.pause(milliseconds(2000));  // a thread is telling the reason
}

void Control::Impl::end_process(int exit_code) {
  if (end_signal != 0) end_process_by(end_signal);
  std::_Exit(exit_code);
}

// With the store goes what is in it: whoever serves it stays until the others have read the error.
void Control::Impl::wait_until_others_know(c10d::Store& store) try {
  if (!serves()) {
    store.add(kGoneKey, 1);
    return;
  }
  // Ranks that died never answer, and some may still be starting.
  const auto deadline =
      Clock::now() + (store.add("joined", 0) < world.world_size ? milliseconds(10000) : milliseconds(2500));
  PollPause pause;
  while (store.add(kGoneKey, 0) + store.add(kDoneKey, 0) < world.world_size - 1 && !all_others_ended() &&
         Clock::now() < deadline) {
    pause();
  }
} catch (const std::exception&) {
  // The store is gone: nobody is left to tell.
}

void Control::Impl::leave_with(const ErrorReport& report, c10d::Store& store) {
  wait_until_others_know(store);
  end_process(report.exit_code);
}

// Ends the process with `report` (or with whatever was reported first); returns only when another thread ends it.
void Control::Impl::report_and_leave(ErrorReport report, c10d::Store& store) {
  if (!claim_leaving()) return;
  report.reporter = world.rank;
  const bool first = publish_error(store, report);
  if (first && world.source != LaunchSource::kLocal) print_error(report.text);
  const auto published = try_get(store, kErrorKey);
  leave_with(published ? ErrorReport::from_json(*published) : report, store);
}

// The store's host is dead (`silent_host` = it does not even refuse). Nothing can be agreed any more, so a fixed rank
// prints: the lowest that can still be there.
void Control::Impl::store_lost(bool silent_host, const std::string& how) {
  if (!claim_leaving()) sleep_for_ever();
  const bool first_of_next_node = world.node_rank == 1 && world.local_rank == 0;
  bool prints = world.agent_store ? world.rank == 0 : world.rank == 1;
  // A silent host may have taken all its ranks with it.
  if (silent_host && world.num_nodes > 1) prints = prints || first_of_next_node;
  if (world.source == LaunchSource::kLocal) prints = false;  // the parent tells, or is gone
  if (prints) {
    const std::string where = world.agent_store ? "the launcher" : "rank 0";
    print_error(
        fmt::format("{}: its control store at {}:{} is lost: {} (the process was killed or stopped, or its host "
                    "is lost)",
                    where, world.master_addr, world.master_port, how));
  }
  end_process(1);
}

void Control::collective_failed(uint64_t collective_id, const std::string& what) {
  // A rank that dies closes its connections, so its peers see errors at once, but these name an address, not the
  // reason. Look who does not beat any more; a rank that ended with an error of its own, or the parent of `--ranks N`,
  // has meanwhile told so, and then the beating thread ends this process.
  const auto record = impl_->collectives.find(collective_id);
  const std::string name = record ? record->describe() : "a collective";
  try {
    // A process that dies closes its connections before it is gone, and its last heartbeat may still be on its way.
    std::this_thread::sleep_for(milliseconds(200));
    const auto wait =
        std::max<Clock::duration>(5 * impl_->options.heartbeat_period / 2 + milliseconds(250), milliseconds(1500));
    const auto before = impl_->all_heartbeats(*impl_->main_store);
    const auto deadline = Clock::now() + wait;
    std::vector<int64_t> silent;
    do {
      if (const auto ended = impl_->ended_peer(*impl_->main_store)) {
        impl_->report_and_leave(*ended, *impl_->main_store);
        impl_->sleep_for_ever();
      }
      std::this_thread::sleep_for(milliseconds(100));
      const auto now = impl_->all_heartbeats(*impl_->main_store);
      silent.clear();
      for (int64_t rank = 0; rank < world().world_size; ++rank) {
        if (rank != world().rank && before[rank] && !before[rank]->done && now[rank] &&
            now[rank]->count == before[rank]->count) {
          silent.push_back(rank);
        }
      }
    } while (!silent.empty() && Clock::now() < deadline);
    if (!silent.empty()) {
      const auto& beat = before[silent[0]];
      throw run_error(
          rank_text(silent[0]),
          fmt::format("lost in {}: its connections closed and it has no heartbeat, last stage: {}", name, beat->stage),
          "the process was killed or stopped, or its host is lost");
    }
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    impl_->store_lost(false, exception_text(e));
  }
  throw run_error(rank_text(world().rank), fmt::format("{} failed: {}", name, what));
}

int Control::fail(const Error& error) {
  const int own_code = static_cast<int>(error.kind);
  if (!world().distributed()) {
    print_error(error.what());
    return own_code;
  }
  if (!impl_->claim_leaving()) impl_->sleep_for_ever();
  // A mistake in the recipe is the same on every rank; for everything else, and with several hosts, say where it was.
  std::string text = error.what();
  const std::string self = rank_text(world().rank);
  const bool says_rank = text.rfind("rank ", 0) == 0;
  if (!says_rank && (error.kind == ErrorKind::kRun || world().num_nodes > 1)) {
    text = fmt::format("{}, {}: {}", self, stage(), text);
  }
  try {
    const bool first = publish_error(
        *impl_->main_store, {.rank = world().rank, .reporter = world().rank, .exit_code = own_code, .text = text});
    if (first && world().source != LaunchSource::kLocal) print_error(text);
    const auto published = try_get(*impl_->main_store, kErrorKey);
    impl_->wait_until_others_know(*impl_->main_store);
    return published ? ErrorReport::from_json(*published).exit_code : own_code;
  } catch (const std::exception&) {
    print_error(text);  // nobody can be told
    return own_code;
  }
}

void Control::finish() {
  if (!world().distributed()) return;
  if (!impl_->serves()) {
    impl_->done = true;  // from here on rank 0 may take the store away
    try {
      impl_->main_store->add(kDoneKey, 1);
    } catch (const std::exception&) {
      // The work is done; whoever is missing is found by the others.
    }
    return;
  }
  const auto deadline = Clock::now() + timeout();
  PollPause pause;
  while (impl_->main_store->add(kDoneKey, 0) < world().world_size - 1) {
    if (Clock::now() > deadline) {
      const auto beats = impl_->all_heartbeats(*impl_->main_store);
      int64_t rank = 1;
      while (rank + 1 < world().world_size && beats[rank] && beats[rank]->done) ++rank;
      throw run_error(rank_text(rank),
                      fmt::format("has not ended {} after rank 0, stage: {}", seconds_text(timeout()),
                                  beats[rank] ? beats[rank]->stage : "?"),
                      "dist.timeout_seconds sets the limit");
    }
    pause();
  }
  impl_->done = true;
}

}  // namespace moraine
