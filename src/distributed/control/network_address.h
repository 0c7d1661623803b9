// Names and addresses of hosts: which of its own the other ranks can reach, and who listens where.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "distributed/control/launch.h"

namespace moraine {

// What a host's name stands for, as numbers in the resolver's order; none: why, in the resolver's words.
struct HostAddresses {
  std::vector<std::string> numbers;
  std::string why_none;
};
HostAddresses resolve_host(const std::string& host);

// Those of a host's addresses (numbers) that other hosts can know it by: neither loopback nor good on one link only.
std::vector<std::string> addresses_for_other_hosts(std::vector<std::string> addresses);

// Connects to `address` (a number) and closes again; why that cannot be done within `limit`, or nullopt.
std::optional<std::string> connection_error(const std::string& address, uint16_t port, std::chrono::milliseconds limit);

// "host:29500", "[::1]:29500".
std::string with_port(const std::string& host, uint16_t port);

// A TCP socket that listens, before somebody takes it over: who connects meanwhile waits, and no other process can take
// its port.
class ListeningSocket {
 public:
  // Listens on one of this host's addresses (a number) only, or on all of them when `address` is empty. Port 0: one
  // that the kernel chooses. Throws std::system_error.
  explicit ListeningSocket(const std::string& address = "127.0.0.1", uint16_t port = 0);
  ~ListeningSocket();
  ListeningSocket(ListeningSocket&& other) noexcept : fd_(std::exchange(other.fd_, -1)), port_(other.port_) {}
  ListeningSocket& operator=(ListeningSocket&&) = delete;
  uint16_t port() const { return port_; }
  // The descriptor, no longer owned by this object.
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
  uint16_t port_ = 0;
};

// The address that packets to `host` leave from, as a number ("10.0.0.3"); "" when `host` does not resolve.
// Sends nothing.
std::string address_towards(const std::string& host, uint16_t port);

bool is_loopback(const std::string& address);

// The address for this rank's connections: loopback when the world is on one host, else the one on the route to
// MASTER_ADDR. On the master's own host that route may be the loopback device (its name often stands for 127.0.1.1 in
// the hosts file), which no other host can reach: then the one of the default route, else any other that is up. Throws
// a run error when there is none.
std::string own_address(const WorldInfo& world);

}  // namespace moraine
