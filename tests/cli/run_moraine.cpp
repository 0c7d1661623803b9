#include "cli/run_moraine.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/temp_folder.h"

namespace moraine {

Ended run_moraine(const std::vector<std::string>& args) {
  TempFolder folder;
  const std::string out = folder.write("out", ""), err = folder.write("err", "");
  std::vector<char*> argv{const_cast<char*>(MORAINE_PROGRAM)};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(), O_WRONLY | O_TRUNC, 0);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err.c_str(), O_WRONLY | O_TRUNC, 0);
  pid_t pid = -1;
  EXPECT_EQ(posix_spawn(&pid, MORAINE_PROGRAM, &actions, nullptr, argv.data(), environ), 0);
  posix_spawn_file_actions_destroy(&actions);
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
