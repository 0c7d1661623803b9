#include "dist/network_address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

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

}  // namespace

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
