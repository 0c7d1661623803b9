// The control plane of a world of ranks, beside the data path: who is alive, what each rank is doing, and the first
// error of any rank, brought to all of them within seconds even when they sit in a collective that never ends.
//
// Each rank keeps a store connection of its own for it and two threads: one beats (writes this rank's heartbeat,
// watches the next live rank's, and looks for an error), the other watches that the first one gets answers.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "distributed/control/collective_log.h"
#include "distributed/control/launch.h"

namespace c10d {
class Store;
}

namespace moraine {

struct ControlOptions {
  std::chrono::milliseconds heartbeat_period{1000};
  // A rank whose heartbeat has not moved for so long is dead. Zero: never (for work under a debugger).
  std::chrono::milliseconds heartbeat_limit{8000};
  // Whether to look at the processes of ranks on this machine too; for tests of what other machines' ranks see.
  bool watch_local_processes = true;
  // How long ranks may start apart from each other.
  std::chrono::milliseconds start_timeout{300000};
  // After how long a rank says what its start still waits for.
  std::chrono::milliseconds quiet_start{20000};
  // dist.timeout_seconds: how long a collective, or the wait for a key, may last.
  std::chrono::milliseconds timeout{7200000};

  // dist.timeout_seconds, where it is known before the world is joined: it bounds the start too.
  void set_timeout(std::chrono::milliseconds limit);

  // The defaults, with heartbeat_limit from MORAINE_HEARTBEAT_SECONDS when it is set. Throws input errors.
  static ControlOptions from_environment(const Environment& environment = process_environment());
};

// How long ranks wait for each other: up to dist.timeout_seconds, or, while another one may be in slow I/O, for as long
// as it lives (heartbeats tell).
enum class Patience { kTimeout, kWhileAlive };

struct RankInfo {
  int64_t rank = 0, node_rank = 0, local_rank = 0, process_id = 0;
  std::string host, joined = {};  // joined: when, in UTC
};

class Control {
 public:
  // Joins the world: all its ranks must construct one, and the constructor returns when all have. With one process it
  // starts nothing. Throws input errors when ranks disagree on who they are (WORLD_SIZE differs): the end of them all.
  // A process that finds another one's world at MASTER_ADDR:MASTER_PORT (its RANK is taken, or the world is complete
  // without it) throws an input error too, and that world does not hear of it.
  Control(const WorldInfo& world, const ControlOptions& options);
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  const WorldInfo& world() const;
  // Known once the recipe is read.
  void set_timeout(std::chrono::milliseconds timeout);
  std::chrono::milliseconds timeout() const;

  // What this rank is doing ("load", "step 12"): named in reports about it. Cheap.
  void set_stage(const std::string& stage);
  std::string stage() const;

  // All ranks of the world, by rank.
  const std::vector<RankInfo>& ranks();
  // "rank 3", or "rank 3 (host x)" where ranks run on several hosts.
  std::string rank_text(int64_t rank);

  // --- A small shared memory. Keys are the caller's own and each is written once. For what ranks wait for while
  // another is in slow I/O: a wait here polls, it never sits in a collective.
  void put(const std::string& key, const std::string& value);
  // Waits until `key` is there; throws a run error that says what was waited for when `patience` is at its end.
  std::string wait_for(const std::string& key, const std::string& what, Patience patience = Patience::kTimeout);
  // All ranks of the world must call this, with a name that is used once.
  void barrier(const std::string& name, Patience patience = Patience::kTimeout);

  // --- For process groups.
  CollectiveLog& collectives();
  // A store to meet in, on a connection of its own; not with one process.
  c10::intrusive_ptr<c10d::Store> rendezvous_store(const std::string& name);
  // A collective has thrown `what`. Finds out whether a rank died (then the world ends naming it), else throws a run
  // error that names the collective.
  [[noreturn]] void collective_failed(uint64_t collective_id, const std::string& what);

  // --- The end.
  // Makes `error` the world's error unless there is one already, and returns the exit code once the other ranks know.
  // The process must then end at once, without running destructors (std::_Exit): collectives may still be in flight.
  // Exactly one rank of the world prints, the one whose report is the first.
  int fail(const Error& error);
  // This rank has done its work. Call it last; rank 0 stays until all have when it serves the store.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moraine
