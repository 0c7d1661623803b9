#include "distributed/control/listening_sockets.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

namespace moraine {

namespace {

std::vector<int> open_fds() {
  std::vector<int> fds;
  DIR* folder = opendir("/proc/self/fd");
  if (!folder) return fds;
  while (const dirent* entry = readdir(folder)) {
    if (entry->d_name[0] != '.' && std::atoi(entry->d_name) != dirfd(folder)) fds.push_back(std::atoi(entry->d_name));
  }
  closedir(folder);
  return fds;
}

int socket_option(int fd, int option) {
  int value = 0;
  socklen_t length = sizeof value;
  return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 ? value : 0;
}

// Whether `fd` is an epoll instance that watches `watched` (a line "tfd: <descriptor> …" for each).
bool watches(int fd, int watched) {
  std::ifstream info(fmt::format("/proc/self/fdinfo/{}", fd));
  std::string word;
  while (info >> word) {
    int target = -1;
    if (word == "tfd:" && info >> target && target == watched) return true;
  }
  return false;
}

// A socket that nobody connects to: in the Unix domain, with a name that the kernel chose. At most one connection waits
// there; it costs this process nothing.
int deaf_socket() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address.sun_family) == 0 && listen(fd, 0) == 0) return fd;
  close(fd);
  return -1;
}

}  // namespace

std::set<int> listening_sockets() {
  std::set<int> sockets;
  for (int fd : open_fds()) {
    const int domain = socket_option(fd, SO_DOMAIN);
    if ((domain == AF_INET || domain == AF_INET6) && socket_option(fd, SO_ACCEPTCONN) != 0) sockets.insert(fd);
  }
  return sockets;
}

void stop_listening(int socket) {
  int epoll = -1;
  for (int fd : open_fds()) {
    if (watches(fd, socket)) epoll = fd;
  }
  if (epoll < 0) return;
  // A listening socket in its place, in one step: who is just about to accept finds nobody instead of an error, and who
  // takes the descriptor out of the epoll instance later finds it there.
  const int deaf = deaf_socket();
  if (deaf < 0) return;
  if (dup3(deaf, socket, O_CLOEXEC) == socket) {
    epoll_event none{};
    epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &none);
  }
  close(deaf);
}

}  // namespace moraine
