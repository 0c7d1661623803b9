// The store behind the control plane and the rendezvous of process groups: a c10d TCPStore, kept by whoever outlives the
// ranks if there is one (torchrun's agent, the parent of `--ranks N`), else by rank 0.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <utility>

#include "base/error.h"
#include "dist/launch.h"

namespace moraine {

// The first error of any rank, as all ranks read it.
struct ErrorReport {
  int64_t rank = -1;  // of whom it tells
  int64_t reporter = -1;  // who told: a rank, or -1 for the parent of `--ranks N`
  int exit_code = 1;
  std::string text;  // what follows "moraine: error: "; may hold more lines

  std::string to_json() const;
  static ErrorReport from_json(const std::string& text);
};

// Keys below control_prefix().
inline constexpr char kErrorKey[] = "error";  // ErrorReport, written once
inline constexpr char kGoneKey[] = "gone";    // ranks that have seen the error and leave
inline constexpr char kDoneKey[] = "done";    // ranks that have finished

// All of moraine's keys of one run start with this: other programs' keys live in an agent's store too.
std::string control_prefix(const WorldInfo& world);

// A loopback port that the kernel chose, listened on: who connects waits until the store is served, and no other process can
// take it in between. Throws a run error.
class LocalStoreSocket {
 public:
  LocalStoreSocket();
  ~LocalStoreSocket();
  LocalStoreSocket(LocalStoreSocket&& other) noexcept : fd_(std::exchange(other.fd_, -1)), port_(other.port_) {}
  LocalStoreSocket& operator=(LocalStoreSocket&&) = delete;
  uint16_t port() const { return port_; }
  // The descriptor, no longer owned by this object.
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
  uint16_t port_ = 0;
};
// A store served by this process. Starts threads. Throws a run error.
c10::intrusive_ptr<c10d::Store> serve_local_store(LocalStoreSocket socket);

// The server's own connection; world.rank must be 0 and world.agent_store false. Throws a run error when the port is taken.
c10::intrusive_ptr<c10d::Store> serve_store(const WorldInfo& world);
// A connection of its own to the world's store (a connection does one thing at a time). Waits up to `timeout` for the
// server to appear; throws a run error naming the address.
c10::intrusive_ptr<c10d::Store> connect_store(const WorldInfo& world, std::chrono::milliseconds timeout);
c10::intrusive_ptr<c10d::Store> with_prefix(const std::string& prefix, c10::intrusive_ptr<c10d::Store> store);

// The value of `key`, or nullopt when nobody has set it. Never waits for it.
std::optional<std::string> try_get(c10d::Store& store, const std::string& key);
// Writes the report unless there is one already; true when this one is the world's error.
bool publish_error(c10d::Store& store, const ErrorReport& report);

// The one place that writes `moraine: error: …` for a world of several ranks. Control characters but line ends are escaped.
void print_error(const std::string& text);

// An exception's text without libtorch's stack trace, on one line.
std::string exception_text(const std::exception& e);

}  // namespace moraine
