#include "cli/run_moraine.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "base/file.h"
#include "base/temp_folder.h"

int moraine_main(int argc, char** argv);  // the program's main (tests/CMakeLists.txt)

namespace moraine {

Ended run_moraine(const std::vector<std::string>& args, const std::function<void()>& prepare) {
  TempFolder folder;
  const std::string out = folder.write("out", ""), err = folder.write("err", "");
  std::string program = "moraine";
  std::vector<char*> argv{program.data()};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  // A fork of this process, which has loaded libtorch already: that is most of what starting the program takes.
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(open(out.c_str(), O_WRONLY | O_TRUNC), STDOUT_FILENO);
    dup2(open(err.c_str(), O_WRONLY | O_TRUNC), STDERR_FILENO);
    if (prepare) prepare();
    std::_Exit(moraine_main(static_cast<int>(args.size()) + 1, argv.data()));
  }
  EXPECT_GT(pid, 0);
  int status = 0;
  waitpid(pid, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_text_file(out), read_text_file(err)};
}

void expect_input_error(const std::vector<std::string>& args, const std::vector<std::string>& parts) {
  std::string command = "moraine";
  for (const std::string& arg : args) command += " " + arg;
  SCOPED_TRACE(command);
  const Ended ended = run_moraine(args);
  EXPECT_EQ(ended.exit_code, 2) << ended.err;
  EXPECT_EQ(ended.out, "");
  EXPECT_TRUE(ended.err.starts_with("moraine: error: ")) << ended.err;
  EXPECT_EQ(std::count(ended.err.begin(), ended.err.end(), '\n'), 1) << ended.err;
  for (const std::string& part : parts) EXPECT_THAT(ended.err, testing::HasSubstr(part));
}

}  // namespace moraine
