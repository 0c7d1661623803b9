// Runs programs for the tests: what they print, how they end, and when.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace moraine::testing_support {

struct Outcome {
  int exit_code = -1;  // 128 + signal when killed
  std::string out, err;
  double ended = 0;  // on the steady clock, in seconds
  // Lines of err that begin with "moraine: error:".
  int error_lines() const;
  // From the worker's word that it is about to hurt itself ("hurt SECONDS" on stdout) to this program's end.
  double seconds_since_hurt() const;
};

class Program {
 public:
  Program(const std::vector<std::string>& argv, const std::map<std::string, std::string>& environment);
  ~Program();
  Program(const Program&) = delete;

  pid_t pid() const { return pid_; }
  // Reads stdout until `text` is there; false at its end or after `seconds`.
  bool wait_for_output(const std::string& text, double seconds);
  const std::string& out() const { return out_; }
  void signal(int number) const;  // nothing after its end
  // Waits for its end; kills it after `seconds` (exit code 137).
  Outcome finish(double seconds = 40);
  // The same for several at a time: when one ended does not depend on how long another took.
  static std::vector<Outcome> finish_all(const std::vector<Program*>& programs, double seconds = 40);

 private:
  void drain();
  bool has_ended();  // reaps it
  pid_t pid_ = -1;
  int out_fd_ = -1, err_fd_ = -1;
  std::string out_, err_;
  int status_ = 0;
  double ended_ = 0;
};

// True when the process exists and is not a zombie.
bool alive(pid_t pid);

}  // namespace moraine::testing_support
