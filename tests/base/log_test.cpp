#include "base/log.h"

#include <gtest/gtest.h>

namespace moraine {
namespace {

TEST(Log, LinesGoToStdoutAndWarningsToStderr) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  log_info("step {} of {}", 1, 2);
  log_warning("loss is high");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "step 1 of 2\n");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "moraine: warning: loss is high\n");
}

TEST(Log, NamesFromForeignFilesNeitherForgeLinesNorReachTheTerminalRaw) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  log_info("model: {}", "\x1b[2Jx\nmoraine: error: forged");
  log_warning(std::string(1 << 20, 'x'));
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "model: \\x1b[2Jx\\nmoraine: error: forged\n");
  const std::string warning = testing::internal::GetCapturedStderr();
  EXPECT_LT(warning.size(), 10000u);
  EXPECT_TRUE(warning.ends_with("x…\n"));
}

// In a process of its own: silence cannot be taken back.
TEST(LogDeathTest, SilenceStopsLines) {
  EXPECT_EXIT(
      {
        testing::internal::CaptureStdout();
        silence_log();
        log_line("not seen");
        std::exit(testing::internal::GetCapturedStdout().empty() ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace moraine
