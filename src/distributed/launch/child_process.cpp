#include "distributed/launch/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace moraine {

namespace {

constexpr size_t kLongestLine = 16 << 10;

}  // namespace

ChildProcess::ChildProcess(const ChildOptions& options) {
  const pid_t parent = getpid();
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0)
    throw run_error("--ranks", std::string("cannot make a pipe: ") + std::strerror(errno));
  const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

  std::fflush(nullptr);  // what is buffered is written once
  pid_ = fork();
  if (pid_ == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);  // it died before prctl
    for (int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCHLD}) ::signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    dup2(pipe_fds[1], STDERR_FILENO);
    if (!options.keeps_stdin && null_fd >= 0) dup2(null_fd, STDIN_FILENO);
    for (const auto& [name, value] : options.environment) setenv(name.c_str(), value.c_str(), /*overwrite=*/1);
  }
  const int error = errno;
  close(pipe_fds[1]);
  if (null_fd >= 0) close(null_fd);
  if (pid_ <= 0) close(pipe_fds[0]);
  if (pid_ == 0) return;
  if (pid_ < 0) throw run_error("--ranks", std::string("cannot start a process: ") + std::strerror(error));
  setpgid(pid_, pid_);  // also here: whoever comes first
  stderr_fd_ = pipe_fds[0];
  fcntl(stderr_fd_, F_SETFL, O_NONBLOCK);
  running_ = true;
}

ChildProcess::~ChildProcess() {
  if (stderr_fd_ >= 0) close(stderr_fd_);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(other.pid_),
      stderr_fd_(std::exchange(other.stderr_fd_, -1)),
      running_(std::exchange(other.running_, false)),
      wait_status_(other.wait_status_),
      partial_line_(std::move(other.partial_line_)) {}

void ChildProcess::signal(int number) const {
  if (running_) kill(pid_, number);
}

bool ChildProcess::reap() {
  if (!running_) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
  running_ = false;
  wait_status_ = status;
  return true;
}

std::vector<std::string> ChildProcess::read_stderr_lines() {
  std::vector<std::string> lines;
  char buffer[4096];
  while (stderr_fd_ >= 0) {
    const ssize_t n = read(stderr_fd_, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;  // nothing there now
    if (n == 0) {
      close(stderr_fd_);
      stderr_fd_ = -1;
      if (!partial_line_.empty()) lines.push_back(std::exchange(partial_line_, ""));
      break;
    }
    for (ssize_t i = 0; i < n; ++i) {
      if (buffer[i] == '\n' || partial_line_.size() >= kLongestLine) {
        lines.push_back(std::exchange(partial_line_, ""));
        if (buffer[i] == '\n') continue;
      }
      partial_line_ += buffer[i];
    }
  }
  return lines;
}

}  // namespace moraine
