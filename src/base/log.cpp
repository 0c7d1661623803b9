#include "base/log.h"

#include <atomic>
#include <cstdio>

#include "base/text.h"

namespace moraine {
namespace {

std::atomic<bool> silent{false};

constexpr size_t kLongestLine = 8000;

// One call of fwrite a line, so that lines of several threads or processes do not mix. What cannot be written is lost:
// a run does not end because nobody reads its log any more.
void write_line(std::FILE* stream, std::string_view prefix, std::string_view line) {
  const std::string text = fmt::format("{}{}\n", prefix, one_line(line, kLongestLine));
  std::fwrite(text.data(), 1, text.size(), stream);
  std::fflush(stream);
}

}  // namespace

void log_line(std::string_view line) {
  if (!silent) write_line(stdout, "", line);
}

void log_warning(std::string_view line) { write_line(stderr, "moraine: warning: ", line); }

void silence_log() { silent = true; }

}  // namespace moraine
