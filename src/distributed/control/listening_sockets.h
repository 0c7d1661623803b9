// Sockets of this process that wait for connections.
#pragma once

#include <set>

namespace moraine {

// Descriptors of TCP sockets that listen. Empty where the system does not tell (no /proc).
std::set<int> listening_sockets();

// From here on nobody can connect to `socket`, one of listening_sockets(); connections that it has accepted stay. For a
// socket whose owner has no way to close it and goes on holding the descriptor: that stays open, and registered for
// events that never come. Does nothing when it is not registered with an epoll instance of this process.
void stop_listening(int socket);

}  // namespace moraine
