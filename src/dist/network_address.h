// Which of this host's addresses the other ranks can reach.
#pragma once

#include <string>

#include "dist/launch.h"

namespace moraine {

// The address that packets to `host` leave from, as a number ("10.0.0.3"); "" when `host` does not resolve.
// Sends nothing.
std::string address_towards(const std::string& host, uint16_t port);

bool is_loopback(const std::string& address);

// The address for this rank's connections: loopback when the world is on one host, else the one on the route to
// MASTER_ADDR. On the master's own host that route may be the loopback device (its name often stands for 127.0.1.1 in the
// hosts file), which no other host can reach: then the one of the default route, else any other that is up. Throws a run
// error when there is none.
std::string own_address(const WorldInfo& world);

}  // namespace moraine
