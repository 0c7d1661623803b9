#include "distributed/control/network_address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/error.h"

namespace moraine {

namespace {

std::string number_text(const sockaddr* address, socklen_t length) {
  char text[NI_MAXHOST] = {};
  if (getnameinfo(address, length, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0) return "";
  return text;
}

// An address of any interface that is up and not loopback.
std::string any_outside_address() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return "";
  std::string found;
  for (const ifaddrs* it = list; it && found.empty(); it = it->ifa_next) {
    if (!it->ifa_addr || it->ifa_addr->sa_family != AF_INET) continue;
    if (!(it->ifa_flags & IFF_UP) || (it->ifa_flags & IFF_LOOPBACK)) continue;
    found = number_text(it->ifa_addr, sizeof(sockaddr_in));
  }
  freeifaddrs(list);
  return found;
}

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

// `address` is a number.
SocketAddress socket_address(const std::string& address, uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  if (getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &list) != 0) {
    throw std::system_error(EADDRNOTAVAIL, std::generic_category());
  }
  SocketAddress result;
  result.length = list->ai_addrlen;
  std::memcpy(&result.storage, list->ai_addr, list->ai_addrlen);
  freeaddrinfo(list);
  return result;
}

// All addresses of this host, IPv4's too where IPv6 is there.
SocketAddress any_address(uint16_t port, bool ipv6) {
  SocketAddress result;
  if (ipv6) {
    auto* address = reinterpret_cast<sockaddr_in6*>(&result.storage);
    *address = {.sin6_family = AF_INET6,
                .sin6_port = htons(port),
                .sin6_flowinfo = 0,
                .sin6_addr = in6addr_any,
                .sin6_scope_id = 0};
    result.length = sizeof *address;
  } else {
    auto* address = reinterpret_cast<sockaddr_in*>(&result.storage);
    address->sin_family = AF_INET;
    address->sin_port = htons(port);
    result.length = sizeof *address;
  }
  return result;
}

// The descriptor, or -1 with errno.
int listen_on(const SocketAddress& address) {
  const int fd = socket(address.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int on = 1, off = 0;
  // A port whose last owner ended a moment ago is free.
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (address.get()->sa_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (bind(fd, address.get(), address.length) == 0 && listen(fd, 1024) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

}  // namespace

HostAddresses resolve_host(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &list);
  if (error != 0) return {{}, error == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(error)};
  HostAddresses found;
  for (const addrinfo* it = list; it; it = it->ai_next) {
    const std::string number = number_text(it->ai_addr, it->ai_addrlen);
    if (!number.empty() && std::find(found.numbers.begin(), found.numbers.end(), number) == found.numbers.end()) {
      found.numbers.push_back(number);
    }
  }
  freeaddrinfo(list);
  if (found.numbers.empty()) found.why_none = "the resolver gives none";
  return found;
}

std::vector<std::string> addresses_for_other_hosts(std::vector<std::string> addresses) {
  std::erase_if(addresses, [](const std::string& address) {
    return is_loopback(address) || address.rfind("fe80:", 0) == 0 || address.rfind("169.254.", 0) == 0;
  });
  return addresses;
}

std::optional<std::string> connection_error(const std::string& address, uint16_t port,
                                            std::chrono::milliseconds limit) try {
  const SocketAddress to = socket_address(address, port);
  const int fd = socket(to.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return std::strerror(errno);
  int error = connect(fd, to.get(), to.length) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    pollfd wait{.fd = fd, .events = POLLOUT, .revents = 0};
    const int ready = poll(&wait, 1, static_cast<int>(limit.count()));
    socklen_t length = sizeof error;
    if (ready > 0) {
      getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    } else {
      error = ready == 0 ? ETIMEDOUT : errno;
    }
  }
  // A port that nobody listens on may be chosen as this end's own: a socket then connects with itself.
  SocketAddress own;
  own.length = sizeof own.storage;
  if (error == 0 && getsockname(fd, reinterpret_cast<sockaddr*>(&own.storage), &own.length) == 0 &&
      own.length == to.length && std::memcmp(&own.storage, &to.storage, to.length) == 0) {
    error = ECONNREFUSED;
  }
  close(fd);
  return error ? std::optional<std::string>(std::strerror(error)) : std::nullopt;
} catch (const std::system_error& e) {
  return e.code().message();
}

std::string with_port(const std::string& host, uint16_t port) {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

ListeningSocket::ListeningSocket(const std::string& address, uint16_t port) {
  if (!address.empty()) {
    fd_ = listen_on(socket_address(address, port));
  } else {
    fd_ = listen_on(any_address(port, /*ipv6=*/true));
    if (fd_ < 0 && errno != EADDRINUSE) fd_ = listen_on(any_address(port, /*ipv6=*/false));
  }
  if (fd_ < 0) throw std::system_error(errno, std::generic_category());
  sockaddr_storage own{};
  socklen_t length = sizeof own;
  getsockname(fd_, reinterpret_cast<sockaddr*>(&own), &length);
  port_ = ntohs(own.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(own).sin6_port
                                          : reinterpret_cast<const sockaddr_in&>(own).sin_port);
}

ListeningSocket::~ListeningSocket() {
  if (fd_ >= 0) close(fd_);
}

std::string address_towards(const std::string& host, uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* list = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list) != 0) return "";
  std::string found;
  for (const addrinfo* it = list; it && found.empty(); it = it->ai_next) {
    // Connecting a datagram socket only chooses a route.
    const int fd = socket(it->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    sockaddr_storage own{};
    socklen_t length = sizeof own;
    if (connect(fd, it->ai_addr, it->ai_addrlen) == 0 &&
        getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) == 0) {
      found = number_text(reinterpret_cast<sockaddr*>(&own), length);
    }
    close(fd);
  }
  freeaddrinfo(list);
  return found;
}

bool is_loopback(const std::string& address) {
  return address.rfind("127.", 0) == 0 || address == "::1" || address.rfind("::ffff:127.", 0) == 0;
}

std::string own_address(const WorldInfo& world) {
  // Others could not reach a master with such a name either: all ranks are on this host.
  if (world.master_addr == "localhost" || is_loopback(world.master_addr)) return "127.0.0.1";
  const std::string towards_master = address_towards(world.master_addr, world.master_port);
  if (world.num_nodes <= 1 && is_loopback(towards_master)) return "127.0.0.1";
  std::string address = towards_master;
  if (world.num_nodes > 1 && (address.empty() || is_loopback(address))) {
    address = address_towards("192.0.2.1", 9);  // an address kept for documentation: the default route
    if (address.empty() || is_loopback(address)) address = any_outside_address();
    if (address.empty()) address = towards_master;
  }
  if (address.empty()) {
    throw run_error("MASTER_ADDR", fmt::format("no address of {} leads to {}", host_name(), world.master_addr),
                    "set GLOO_SOCKET_IFNAME to the interface that reaches the other hosts");
  }
  return address;
}

}  // namespace moraine
