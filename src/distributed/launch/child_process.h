// One rank started by `--ranks N`: a direct child that dies with its parent, with its stderr in a pipe.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

namespace moraine {

struct ChildOptions {
  std::vector<std::pair<std::string, std::string>> environment;  // added to, or replacing, this process's
  bool keeps_stdin = false;                                      // else it reads /dev/null
};

class ChildProcess {
 public:
  // Forks this process, which must have one thread only. The child has an empty signal mask and is in a process group
  // of its own: signals from the terminal reach it once, through the parent. Throws a run error when it cannot be
  // started.
  explicit ChildProcess(const ChildOptions& options);
  ~ChildProcess();  // closes the pipe; the child must have been reaped
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // Whether this is the child itself.
  bool is_here() const { return pid_ == 0; }
  pid_t pid() const { return pid_; }
  int stderr_fd() const { return stderr_fd_; }  // non-blocking; -1 after its end

  bool running() const { return running_; }
  void signal(int number) const;  // nothing when it no longer runs
  // True when it has just ended; wait_status() is then set. Never blocks.
  bool reap();
  int wait_status() const { return wait_status_; }

  // The whole lines that have come since the last call; at the pipe's end also a last line without a newline.
  std::vector<std::string> read_stderr_lines();

 private:
  pid_t pid_ = -1;
  int stderr_fd_ = -1;
  bool running_ = false;
  int wait_status_ = 0;
  std::string partial_line_;
};

}  // namespace moraine
