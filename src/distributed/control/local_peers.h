// The other ranks' processes on this machine: whether they still run is the kernel's to know, faster and surer than any
// heartbeat. The reason of a failed collective is then told before a launcher that only saw the process end clears up.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moraine {

// Names the machine and the process-id namespace (containers on one host have their own).
std::string process_place();

// When the process started, in the kernel's ticks; nullopt when it has ended (zombies too) or cannot be seen.
std::optional<uint64_t> process_start(pid_t pid);

struct LocalPeer {
  int64_t rank = 0;
  pid_t pid = 0;
  uint64_t start = 0;  // tells a later process with the same id apart

  // "RANK PID START\n", one per rank, appended to each other under one key per place.
  static std::string own_line(int64_t rank);
};

class LocalPeers {
 public:
  LocalPeers() = default;
  // `lines`: every rank of this place. Those that cannot be seen now are left out: nothing is said about them later.
  LocalPeers(const std::string& lines, int64_t own_rank);

  size_t size() const { return peers_.size(); }
  // The ranks whose process no longer runs.
  std::vector<int64_t> ended() const;

 private:
  std::vector<LocalPeer> peers_;
};

}  // namespace moraine
