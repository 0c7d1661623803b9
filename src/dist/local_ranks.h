// `--ranks N`: this process starts N ranks of the same command on this machine and looks after them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moraine {

struct LocalRanksOptions {
  int64_t ranks = 1;
  std::string program = "/proc/self/exe";
  std::vector<std::string> argv;  // of every rank, argv[0] first; must not ask for `--ranks` again
};

// argv without `--ranks N` and `--ranks=N`; what follows a bare `--` stays as it is.
std::vector<std::string> without_ranks_flag(const std::vector<std::string>& argv);

// Starts the ranks, waits for all of them, and returns the command's exit code: 0; the first failing rank's (2 stays 2,
// anything else is 1); 128 + signal when a forwarded SIGINT or SIGTERM ended them. Prints at most one error. When a rank
// dies the others are told through the control store, which lives in this process, and are gone within seconds. Blocks
// SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGTSTP and SIGCONT in the calling process. The ranks are its only children.
int run_local_ranks(const LocalRanksOptions& options);

// Refuses `--ranks N` where another launcher has already started several ranks.
void check_ranks_flag(int64_t ranks);

}  // namespace moraine
