// Runs the built program for the tests.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace moraine {

struct Ended {
  int exit_code = -1;  // 128 + signal when killed
  std::string out, err;
};

// Runs `moraine args...` without any launcher's environment and waits for its end. `prepare` runs in its process before
// it, with stdout and stderr in place: what a shell would set up.
Ended run_moraine(const std::vector<std::string>& args, const std::function<void()>& prepare = nullptr);

// What every wrong input must come to: exit code 2, nothing on stdout, and on stderr one line `moraine: error: …` that
// holds each of `parts`.
void expect_input_error(const std::vector<std::string>& args, const std::vector<std::string>& parts);

}  // namespace moraine
