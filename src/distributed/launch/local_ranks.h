// `--ranks N`: this process starts N ranks of the same command on this machine and looks after them.
#pragma once

#include <cstdint>
#include <functional>

namespace moraine {

// Forks the ranks, waits for all of them, and returns the command's exit code: 0; the first failing rank's (2 stays 2,
// anything else is 1); 128 + signal when a forwarded SIGINT or SIGTERM ended them. Prints at most one error. When a
// rank dies the others are told through the control store, which lives in this process, and are gone within seconds.
// Blocks SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGTSTP and SIGCONT in the calling process. The ranks are its only children.
//
// In a rank it returns what `body` returns: a rank is this process from here on, with the environment that launch.h
// reads, so it starts without loading libtorch again (half a second of CPU each). The calling process must have one
// thread only: nothing before may have multiplied matrices on several threads, nor asked CUDA anything.
int run_local_ranks(int64_t ranks, const std::function<int()>& body);

// Refuses `--ranks N` where another launcher has already started several ranks.
void check_ranks_flag(int64_t ranks);

}  // namespace moraine
