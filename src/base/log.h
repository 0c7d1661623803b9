// What a user reads while it runs: plain lines on stdout; stderr is for errors. Lines quote names from foreign files,
// so their control characters are escaped and they end in "…" after a few kilobytes. A line that cannot be written is
// lost without a word.
#pragma once

#include <fmt/format.h>

#include <string_view>

namespace moraine {

// One line to stdout, flushed. Silent after silence_log() (with --json, and on ranks other than 0).
void log_line(std::string_view line);
// One line `moraine: warning: …` to stderr.
void log_warning(std::string_view line);
void silence_log();

template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace moraine
