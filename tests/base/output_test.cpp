#include "base/output.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/process.h"
#include "base/temp_folder.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(Output, TextForATerminalKeepsItsLines) {
  EXPECT_EQ(for_terminal("a\n\tb\n"), "a\n\tb\n");
  EXPECT_EQ(for_terminal("grün ✓"), "grün ✓");
  EXPECT_EQ(for_terminal("\x1b[31m\r\x7f"), "\\x1b[31m\\x0d\\x7f");
  EXPECT_EQ(for_terminal("\xc2\x9b\xff"), "\\xc2\\x9b\\xff");  // CSI as one character, broken UTF-8
  EXPECT_EQ(for_terminal(""), "");
}

TEST(Output, JsonTakesNamesThatAreNoUtf8) {
  testing::internal::CaptureStdout();
  print_json({{"folder", "a\xff"}});
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "{\"folder\":\"a\xEF\xBF\xBD\"}\n");
}

void put_in_place_of_stdout(int fd) { ASSERT_EQ(dup2(fd, STDOUT_FILENO), STDOUT_FILENO); }

// A pipe whose reader is gone.
int closed_pipe() {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  close(ends[0]);
  return ends[1];
}

TEST(OutputDeathTest, ResultsWithoutAReaderEndTheProcessAsElsewhere) {
  EXPECT_EXIT(
      {
        make_write_failures_errors();
        put_in_place_of_stdout(closed_pipe());
        print_result("result\n");
      },
      testing::KilledBySignal(SIGPIPE), "^$");
}

TEST(OutputDeathTest, ResultsThatCannotBeWrittenAreAnError) {
  EXPECT_EXIT(
      {
        put_in_place_of_stdout(open("/dev/full", O_WRONLY));
        std::fputs(error_of([] { print_result("result\n"); }).c_str(), stderr);
        std::_Exit(0);
      },
      testing::ExitedWithCode(0), "standard output: cannot write: No space left on device");
}

TEST(OutputDeathTest, ALogWithoutAReaderEndsNothing) {
  EXPECT_EXIT(
      {
        make_write_failures_errors();
        put_in_place_of_stdout(closed_pipe());
        for (int line = 0; line < 3; ++line) log_line("step");
        std::_Exit(7);
      },
      testing::ExitedWithCode(7), "^$");
}

TEST(ProcessDeathTest, AFileAtTheLimitOfSizesIsAnError) {
  TempFolder folder;
  EXPECT_EXIT(
      {
        make_write_failures_errors();
        rlimit limit;
        limit.rlim_cur = limit.rlim_max = 1000;
        setrlimit(RLIMIT_FSIZE, &limit);
        std::fputs(error_of([&] { write_file_atomic(folder / "large", std::string(1001, 'x')); }).c_str(), stderr);
        std::_Exit(0);
      },
      testing::ExitedWithCode(0), "large: cannot write: File too large");
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(ProcessDeathTest, NoLineIsHalfWritten) {
  TempFolder folder;
  const fs::path path = folder.write("lines", "one\n");
  EXPECT_EXIT(
      {
        make_write_failures_errors();
        rlimit limit;
        limit.rlim_cur = limit.rlim_max = 10;
        setrlimit(RLIMIT_FSIZE, &limit);
        const int fd = open(path.c_str(), O_WRONLY | O_APPEND);
        const bool good = append_whole(fd, "two\n") == 0 && append_whole(fd, "three\n") == EFBIG;
        std::_Exit(good ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
  EXPECT_EQ(read_text_file(path), "one\ntwo\n");
}

// What is opened next would take the place of stdout, and the log would go into it.
TEST(ProcessDeathTest, NoFileTakesThePlaceOfAClosedStdout) {
  TempFolder folder;
  const fs::path path = folder.write("file", "content");
  EXPECT_EXIT(
      {
        close(STDIN_FILENO);
        close(STDOUT_FILENO);
        fill_closed_standard_streams();
        const int fd = open(path.c_str(), O_RDWR);
        log_line("a line");
        char byte;
        const bool unreadable = read(STDIN_FILENO, &byte, 1) < 0 && errno == EBADF;
        std::_Exit(fd > STDERR_FILENO && unreadable && read_text_file(path) == "content" ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace moraine
