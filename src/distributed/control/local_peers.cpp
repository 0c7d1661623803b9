#include "distributed/control/local_peers.h"

#include <fmt/format.h>
#include <unistd.h>

#include <climits>
#include <fstream>
#include <sstream>

#include "distributed/control/launch.h"

namespace moraine {

std::string process_place() {
  char name_space[PATH_MAX] = {};
  const ssize_t n = readlink("/proc/self/ns/pid", name_space, sizeof name_space - 1);
  return fmt::format("{}/{}", host_name(), n > 0 ? name_space : "?");
}

std::optional<uint64_t> process_start(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  if (!std::getline(file, text)) return std::nullopt;
  // "pid (name) state ppid …": the name may hold anything, so count from its end. The start time is field 22, state
  // is 3.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(name_end + 1));
  std::string state, skipped;
  fields >> state;
  if (state == "Z" || state == "X") return std::nullopt;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  uint64_t start = 0;
  return fields >> start ? std::optional(start) : std::nullopt;
}

std::string LocalPeer::own_line(int64_t rank) {
  return fmt::format("{} {} {}\n", rank, getpid(), process_start(getpid()).value_or(0));
}

LocalPeers::LocalPeers(const std::string& lines, int64_t own_rank) {
  std::istringstream in(lines);
  for (LocalPeer peer; in >> peer.rank >> peer.pid >> peer.start;) {
    if (peer.rank != own_rank && process_start(peer.pid) == peer.start) peers_.push_back(peer);
  }
}

std::vector<int64_t> LocalPeers::ended() const {
  std::vector<int64_t> ranks;
  for (const LocalPeer& peer : peers_) {
    if (process_start(peer.pid) != peer.start) ranks.push_back(peer.rank);
  }
  return ranks;
}

}  // namespace moraine
