// The store behind the control plane and the rendezvous of process groups: a c10d TCPStore, kept by whoever outlives
// the ranks if there is one (torchrun's agent, the parent of `--ranks N`), else by rank 0.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "base/error.h"
#include "distributed/control/launch.h"
#include "distributed/control/network_address.h"
#include "distributed/control/start_watch.h"

namespace moraine {

// The first error of any rank, as all ranks read it.
struct ErrorReport {
  int64_t rank = -1;      // of whom it tells
  int64_t reporter = -1;  // who told: a rank, or -1 for the parent of `--ranks N`
  int exit_code = 1;
  std::string text;  // what follows "moraine: error: "; may hold more lines

  std::string to_json() const;
  // A text that is no report (a stranger's) is an error as well: one that says so.
  static ErrorReport from_json(const std::string& text);
};

// Keys below control_prefix().
inline constexpr char kErrorKey[] = "error";  // ErrorReport, written once
inline constexpr char kGoneKey[] = "gone";    // ranks that have seen the error and leave
inline constexpr char kDoneKey[] = "done";    // ranks that have finished

// Without the prefix: which run the store of rank 0 serves (WorldInfo::run_id), or that it is one of `--ranks`.
inline constexpr char kServedRunKey[] = "moraine/served_run";

// All of moraine's keys of one run start with this: other programs' keys live in an agent's store too.
std::string control_prefix(const WorldInfo& world);

// A socket for serve_…_store() on `address`, or on all of this host's when it is empty; this host itself reaches it at
// `reached_at`, which is tried: a host whose loopback interface is down lets one listen there all the same. Throws a
// run error, or std::system_error.
ListeningSocket listen_for_store(const std::string& address, uint16_t port, const std::string& reached_at);
// A store served by this process on a loopback port. Starts threads, which write to peers that may have gone: SIGPIPE
// must be ignored (make_write_failures_errors). Throws a run error.
c10::intrusive_ptr<c10d::Store> serve_local_store(ListeningSocket socket);

// The server's own connection; world.rank must be 0 and world.agent_store false. Nobody can connect from where
// MASTER_ADDR is not: the store listens on that address only. It listens on all of this host's where that cannot be:
// there are other hosts, and MASTER_ADDR stands for loopback in the hosts file of its own or for several addresses, of
// which the others may know any; or it is an address of no interface here (it is translated on the way; a warning says
// so). Throws a run error when the port is taken or MASTER_ADDR has no address within the watch's limit.
c10::intrusive_ptr<c10d::Store> serve_store(const WorldInfo& world, StartWatch& watch);
// A connection of its own to the world's store (a connection does one thing at a time). Waits up to `timeout` for the
// server to appear; throws a run error that names the address, or says that MASTER_ADDR has none. `watch` is told what
// is waited for.
c10::intrusive_ptr<c10d::Store> connect_store(const WorldInfo& world, std::chrono::milliseconds timeout,
                                              StartWatch* watch = nullptr);
c10::intrusive_ptr<c10d::Store> with_prefix(const std::string& prefix, c10::intrusive_ptr<c10d::Store> store);

// The value of `key`, or nullopt when nobody has set it. Never waits for it.
std::optional<std::string> try_get(c10d::Store& store, const std::string& key);
// Writes the report unless there is one already; true when this one is the world's error.
bool publish_error(c10d::Store& store, const ErrorReport& report);

// The one place that writes `moraine: error: …` for a world of several ranks. Control characters but line ends are
// escaped.
void print_error(const std::string& text);

// An exception's text without libtorch's stack trace, on one line.
std::string exception_text(const std::exception& e);

}  // namespace moraine
