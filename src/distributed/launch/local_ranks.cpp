#include "distributed/launch/local_ranks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <optional>
#include <set>
#include <system_error>

#include "base/error.h"
#include "base/text.h"
#include "distributed/control/control_store.h"
#include "distributed/control/descriptors.h"
#include "distributed/control/end_signals.h"
#include "distributed/control/heartbeat.h"
#include "distributed/control/launch.h"
#include "distributed/control/stop_request.h"
#include "distributed/launch/child_process.h"

namespace moraine {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

// What this process opens at most: a pipe of each rank and its connections to the store, one for each process group and
// four more. To be refused here is better than to fail in the middle. The ranks count their own, which are fewer.
int64_t descriptors_of_local_ranks(int64_t ranks) { return 16 + 13 * ranks; }

ListeningSocket listen_on_loopback() try {
  return listen_for_store("127.0.0.1", 0, "127.0.0.1");
} catch (const std::system_error& e) {
  throw run_error("--ranks", "cannot listen on 127.0.0.1: " + e.code().message());
}

// After the first failure the others have this long to leave by themselves (they read of it in the store), then to obey
// SIGHUP, before SIGKILL.
constexpr milliseconds kLeaveTime(2000), kTermTime(500);

class Supervisor {
 public:
  explicit Supervisor(int64_t ranks) : ranks_(ranks), exit_codes_(ranks, 0) {}
  ~Supervisor() {
    if (signal_fd_ >= 0) close(signal_fd_);
  }

  // The command's exit code; nullopt in a rank.
  std::optional<int> run() {
    block_signals();
    raise_descriptor_limit();
    require_descriptors(descriptors_of_local_ranks(ranks_), fmt::format("--ranks {}", ranks_));
    ListeningSocket socket = listen_on_loopback();
    if (!start_children(socket.port())) return std::nullopt;
    // Its threads must not be there before the ranks; those that come first wait in the queue of the socket.
    served_ = serve_local_store(std::move(socket));
    world_.world_size = ranks_;
    world_.run_id = ".0";  // as the ranks compute it: launched without torchrun's run id and restart count
    store_ = with_prefix(control_prefix(world_), served_);
    while (any_running()) {
      wait_for_events();
      for (int64_t rank = 0; rank < ranks_; ++rank) read_stderr(rank);
      for (int64_t rank = 0; rank < ranks_; ++rank) {
        if (children_[rank].reap()) ended(rank);
      }
      look_for_report();
      stop_the_rest();
    }
    for (int64_t rank = 0; rank < ranks_; ++rank) read_stderr(rank);
    return conclude();
  }

 private:
  void block_signals() {
    sigset_t set;
    sigemptyset(&set);
    for (int number : {SIGHUP, SIGCHLD, SIGTSTP, SIGCONT}) sigaddset(&set, number);
    for (int number : kRequestSignals) sigaddset(&set, number);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signal_fd_ < 0) throw run_error("--ranks", std::string("signalfd: ") + std::strerror(errno));
  }

  // False in a rank.
  bool start_children(uint16_t port) {
    for (int64_t rank = 0; rank < ranks_; ++rank) {
      ChildOptions child{.environment = {}, .keeps_stdin = rank == 0};
      const std::string n = std::to_string(ranks_), r = std::to_string(rank);
      child.environment = {{"RANK", r},
                           {"WORLD_SIZE", n},
                           {"LOCAL_RANK", r},
                           {"LOCAL_WORLD_SIZE", n},
                           {"GROUP_RANK", "0"},
                           {"MASTER_ADDR", "127.0.0.1"},
                           {"MASTER_PORT", std::to_string(port)},
                           {"TORCHELASTIC_RUN_ID", ""},
                           {"TORCHELASTIC_RESTART_COUNT", "0"},
                           {kLocalLaunchVariable, std::to_string(getpid())}};
      if (!process_environment()("OMP_NUM_THREADS")) {
        child.environment.emplace_back("OMP_NUM_THREADS", std::to_string(default_thread_count(ranks_)));
      }
      try {
        children_.emplace_back(child);
        if (children_.back().is_here()) return false;
      } catch (const Error&) {
        for (ChildProcess& child : children_) {
          child.signal(SIGKILL);
          waitpid(child.pid(), nullptr, 0);
        }
        throw;
      }
    }
    last_lines_.resize(children_.size());
    error_lines_.resize(children_.size());
    return true;
  }

  bool any_running() const {
    for (const ChildProcess& child : children_) {
      if (child.running()) return true;
    }
    return false;
  }

  void wait_for_events() {
    std::vector<pollfd> fds{{.fd = signal_fd_, .events = POLLIN, .revents = 0}};
    for (const ChildProcess& child : children_) {
      if (child.stderr_fd() >= 0) fds.push_back({.fd = child.stderr_fd(), .events = POLLIN, .revents = 0});
    }
    poll(fds.data(), fds.size(), failed_at_ ? 50 : 250);
    signalfd_siginfo info;
    while (read(signal_fd_, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      on_signal(static_cast<int>(info.ssi_signo));
    }
  }

  void signal_all(int number) {
    for (const ChildProcess& child : children_) child.signal(number);
  }

  void on_signal(int number) {
    switch (number) {
      case SIGCHLD:
        return;
      case SIGTSTP:
        // Ctrl-Z reaches only this process: stop the ranks with it, else they would miss the store it serves.
        signal_all(SIGSTOP);
        raise(SIGSTOP);
        signal_all(SIGCONT);
        return;
      case SIGCONT:
        signal_all(SIGCONT);
        return;
      default:
        break;
    }
    if (is_ignored_signal(number)) return;  // blocked signals come here even so; ranks have them as they are by default
    const Clock::time_point now = Clock::now();
    // A signal sent to a process and to its group arrives twice: one forward.
    if (forwarded_ && now - forwarded_at_ < StopRequest::kSameRequest) return;
    signal_all(number);
    if (forwarded_) kill_at_ = now + milliseconds(3000);  // asked twice
    forwarded_ = number;
    forwarded_at_ = now;
  }

  // Ranks' warnings pass, each once; their error lines are kept for the end; the rest (libtorch's words) is kept in
  // case a rank dies without a word of its own.
  void read_stderr(int64_t rank) {
    for (const std::string& line : children_[rank].read_stderr_lines()) {
      if (line.rfind("moraine: warning:", 0) == 0) {
        if (seen_warnings_.insert(line).second) pass_on(line);
      } else if (line.rfind("moraine: error: ", 0) == 0) {
        error_lines_[rank].push_back(line.substr(sizeof "moraine: error: " - 1));
      } else if (!error_lines_[rank].empty() && line.rfind("  ", 0) == 0 && error_lines_[rank].size() < 6) {
        error_lines_[rank].push_back(line);
      } else if (!line.empty()) {
        last_lines_[rank] = line;
        if (process_environment()("TORCH_CPP_LOG_LEVEL")) pass_on(fmt::format("rank {}: {}", rank, line));
      }
    }
  }

  static void pass_on(const std::string& line) {
    const std::string text = one_line(line, 8000) + "\n";
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
  }

  void ended(int64_t rank) {
    const int status = children_[rank].wait_status();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    exit_codes_[rank] = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    if (!first_failed_) first_failed_ = rank;
    read_stderr(rank);
    // It ended in order, because somebody asked one of the ranks to; they have agreed on it (StopRequest).
    if (!forwarded_ && WIFEXITED(status) && is_request_signal(exit_codes_[rank] - 128)) {
      forwarded_ = exit_codes_[rank] - 128;
      forwarded_at_ = Clock::now();
    }
    // Nobody reads its results any more (print_result): the others need not go on.
    if (!forwarded_ && WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE) {
      forwarded_ = SIGPIPE;
      failed_at_ = forwarded_at_ = Clock::now();
      signal_all(SIGHUP);
    }
    // Ranks that end because they were told to may take their time: the others save what they have.
    if (forwarded_ || report_) return;
    if (!failed_at_) failed_at_ = Clock::now();
    // What the rank itself told all of us comes first. A rank that stopped because it read of an error does not get
    // here before the error is in the store.
    look_for_report();
    if (report_) return;
    ErrorReport report{.rank = rank, .reporter = -1, .exit_code = exit_codes_[rank] == 2 ? 2 : 1, .text = ""};
    if (!error_lines_[rank].empty()) {
      report.text = fmt::format("{}", fmt::join(error_lines_[rank], "\n"));
    } else if (WIFSIGNALED(status)) {
      report.text = signal_text(rank, WTERMSIG(status));
    } else {
      report.text =
          fmt::format("rank {}: ended with code {} and without a word{}", rank, exit_codes_[rank], last_words(rank));
    }
    publish_error(*store_, report);
    look_for_report();
  }

  std::string last_words(int64_t rank) {
    if (last_lines_[rank].empty()) return "";
    return fmt::format("; its last: {}", last_lines_[rank].substr(0, 200));
  }

  std::string signal_text(int64_t rank, int number) {
    std::string stage;
    if (const auto beat = read_heartbeat(try_get(*store_, heartbeat_key(rank)))) stage = ", stage: " + beat->stage;
    const char* abbreviation = sigabbrev_np(number);
    std::string hint;
    if (number == SIGKILL) hint = "; out of memory? dmesg tells";
    if (number == SIGSEGV || number == SIGABRT || number == SIGFPE || number == SIGILL) {
      hint = "; a bug, please report it" + last_words(rank);
    }
    return fmt::format("rank {}: killed by signal {} (SIG{}{}{})", rank, number, abbreviation ? abbreviation : "?",
                       stage, hint);
  }

  void look_for_report() {
    if (report_ || forwarded_ == SIGPIPE) return;
    if (const auto text = try_get(*store_, kErrorKey)) {
      report_ = ErrorReport::from_json(*text);
      if (!failed_at_) failed_at_ = Clock::now();
      print_error(report_->text);
      // A rank that others report as lost or stuck cannot be asked to leave.
      const int64_t rank = report_->rank;
      if (report_->reporter != rank && rank >= 0 && rank < ranks_) children_[rank].signal(SIGKILL);
    }
  }

  void stop_the_rest() {
    const Clock::time_point now = Clock::now();
    if (failed_at_ && !terminated_ && now - *failed_at_ > kLeaveTime) {
      signal_all(SIGHUP);  // no request to a run to end in order, as SIGTERM may be
      terminated_ = true;
    }
    if ((failed_at_ && now - *failed_at_ > kLeaveTime + kTermTime) || (kill_at_ && now > *kill_at_))
      signal_all(SIGKILL);
  }

  int conclude() {
    if (report_) return report_->exit_code;
    if (!first_failed_) return 0;
    if (forwarded_) return 128 + *forwarded_;
    return exit_codes_[*first_failed_] == 2 ? 2 : 1;
  }

  const int64_t ranks_;
  WorldInfo world_;
  c10::intrusive_ptr<c10d::Store> served_;
  c10::intrusive_ptr<c10d::Store> store_;
  int signal_fd_ = -1;
  std::vector<ChildProcess> children_;
  std::vector<int> exit_codes_;
  std::vector<std::string> last_lines_;
  std::vector<std::vector<std::string>> error_lines_;
  std::set<std::string> seen_warnings_;
  std::optional<int64_t> first_failed_;
  std::optional<Clock::time_point> failed_at_, kill_at_;
  std::optional<int> forwarded_;
  Clock::time_point forwarded_at_;
  bool terminated_ = false;
  std::optional<ErrorReport> report_;
};

}  // namespace

int run_local_ranks(int64_t ranks, const std::function<int()>& body) {
  quiet_torch_logs();
  const std::optional<int> code = Supervisor(ranks).run();
  return code ? *code : body();
}

void check_ranks_flag(int64_t ranks) {
  if (ranks < 1) throw input_error("--ranks", fmt::format("{} is not a number of ranks", ranks), "at least 1");
  const WorldInfo world = world_from_environment();
  if (ranks > 1 && world.distributed()) {
    throw input_error("--ranks",
                      fmt::format("{} already started {} ranks", launch_source_name(world.source), world.world_size),
                      "leave --ranks out");
  }
}

}  // namespace moraine
