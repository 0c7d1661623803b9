// The first SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 as a request to end in order: a launcher that needs the machine back
// asks so (Kubernetes and Slurm by SIGTERM, `sbatch --signal=USR1@120` and Grid Engine's -notify by the others), and a
// user does by Ctrl-C. SIGHUP is none: it says that nobody is there any more, and the parent of `--ranks N` ends ranks
// by it at once.
#pragma once

#include <chrono>
#include <csignal>
#include <iterator>
#include <string>

namespace moraine {

inline constexpr int kRequestSignals[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
bool is_request_signal(int number);

class StopRequest {
 public:
  // While this object lives, the first of those signals is noted and `notice` (a line; may be empty) printed. Another
  // one, kSameRequest later or more, ends the process as it would have without this object. One object at a time;
  // `armed` false: signals do what they always do.
  enum class Armed { kNo, kYes };
  StopRequest(Armed armed, const std::string& notice);
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  // The signal that this process has been asked to end by, or 0.
  int asked() const;

  // Two signals within this time are one request: launchers send one to a process and to its group, or SIGTERM after
  // SIGINT.
  static constexpr std::chrono::milliseconds kSameRequest{1000};

  // For whoever takes a signal: whether it is a request. Safe in a signal handler.
  static bool take(int number);

 private:
  bool armed_;
  struct sigaction before_[std::size(kRequestSignals)];
};

// "SIGTERM"
std::string signal_name(int number);

}  // namespace moraine
