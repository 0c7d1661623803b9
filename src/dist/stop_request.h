// The first SIGTERM or SIGINT as a request to end in order: a launcher that needs the machine back (Slurm, Kubernetes) asks so, and a
// user does by Ctrl-C.
#pragma once

#include <chrono>
#include <csignal>
#include <string>

#include "dist/process_group.h"

namespace moraine {

class StopRequest {
 public:
  // While this object lives, the first SIGTERM or SIGINT is noted and `notice` (a line; may be empty) printed. Another one, kSameRequest
  // later or more, ends the process as it would have without this object. One object at a time; `armed`
  // false: signals do what they always do.
  enum class Armed { kNo, kYes };
  StopRequest(Armed armed, const std::string& notice);
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  // The signal that any rank of the world has been asked to end by, or 0: the same on all ranks, which must all call this.
  int agreed(ProcessGroup& world, at::Device device) const;

  // Two signals within this time are one request: launchers send one to a process and to its group, or SIGTERM after SIGINT.
  static constexpr std::chrono::milliseconds kSameRequest{1000};

  // For whoever takes a signal: whether it is a request. Safe in a signal handler.
  static bool take(int number);

 private:
  bool armed_;
  struct sigaction terminate_before_, interrupt_before_;
};

// "SIGTERM"
std::string signal_name(int number);

}  // namespace moraine
