#include "train/metrics.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/bytes.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"

namespace moraine {
namespace {

std::string clock_text(double seconds) {
  const int64_t s = static_cast<int64_t>(seconds);
  return s < 3600 ? fmt::format("{:02}:{:02}", s / 60, s % 60)
                  : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

double tokens_per_second(const StepMetrics& m) { return m.step_seconds > 0 ? m.result.tokens / m.step_seconds : 0; }

// The lines of steps up to `steps`, until one is torn. The first may be a later step's: of a run that began from
// another's snapshot.
std::string lines_until(const std::filesystem::path& path, int64_t steps) {
  if (steps == 0 || !std::filesystem::exists(path)) return "";
  const std::string text = read_text_file(path, uint64_t{1} << 40);
  size_t end = 0;
  for (int64_t last = 0; last < steps;) {
    const size_t line_end = text.find('\n', end);
    if (line_end == text.npos) break;
    const Json line = Json::parse(text.substr(end, line_end - end), nullptr, /*allow_exceptions=*/false);
    const bool has_step = line.is_object() && line.contains("step") && line["step"].is_number_integer();
    const int64_t step = has_step ? line["step"].get<int64_t>() : 0;
    if (step <= last || step > steps) break;
    last = step;
    end = line_end + 1;
  }
  return text.substr(0, end);
}

}  // namespace

MetricsFile::MetricsFile(const std::filesystem::path& path, int64_t steps_kept) : path_(path), file_(nullptr) {
  write_file_atomic(path, lines_until(path, steps_kept));
  file_ = std::fopen(path.c_str(), "a");
  if (!file_) throw run_error(path.string(), std::strerror(errno), "check save.dir");
}

MetricsFile::~MetricsFile() { std::fclose(file_); }

std::vector<std::pair<std::string, double>> tensorboard_scalars(const StepMetrics& m) {
  return {{"train/loss", m.result.loss},
          {"train/grad_norm", m.result.grad_norm},
          {"train/learning_rate", m.learning_rate},
          {"train/aux_loss", m.result.aux_loss},
          {"train/expert_load_imbalance", m.result.expert_load_imbalance},
          {"train/tokens_per_second", tokens_per_second(m)},
          {"train/peak_memory_bytes", static_cast<double>(m.result.peak_memory_bytes)}};
}

void MetricsFile::append(const StepMetrics& m) {
  last_ = {{"step", m.step},
           {"loss", m.result.loss},
           {"grad_norm", m.result.grad_norm},
           {"lr", m.learning_rate},
           {"tokens", m.result.tokens},
           {"trained_tokens", m.result.trained_tokens},
           {"aux_loss", m.result.aux_loss},
           {"expert_load_imbalance", m.result.expert_load_imbalance},
           {"step_seconds", m.step_seconds},
           {"tokens_per_second", tokens_per_second(m)},
           {"peak_memory_bytes", m.result.peak_memory_bytes}};
  write(last_.dump() + "\n");
}

void MetricsFile::add_to_last(const EvalResult& eval) {
  const off_t line_size = static_cast<off_t>(last_.dump().size()) + 1;
  last_.update(
      OrderedJson{{"eval_loss", eval.loss}, {"eval_tokens", eval.trained_tokens}, {"eval_seconds", eval.seconds}});
  struct stat now {};
  if (fstat(fileno(file_), &now) != 0 || now.st_size < line_size ||
      ftruncate(fileno(file_), now.st_size - line_size) != 0)
    throw run_error(path_.string(), std::string("cannot write: ") + std::strerror(errno), "check save.dir");
  write(last_.dump() + "\n");
}

void MetricsFile::write(const std::string& text) {
  if (const int code = append_whole(fileno(file_), text))
    throw run_error(path_.string(), std::string("cannot write: ") + std::strerror(code),
                    "free space or change save.dir");
}

void MetricsFile::sync() {
  if (fsync(fileno(file_)) != 0 && errno != EINVAL)
    throw run_error(path_.string(), std::string("cannot write: ") + std::strerror(errno));
}

ProgressPrinter::ProgressPrinter(int64_t total_steps, int64_t steps_done, int64_t every)
    : total_steps_(total_steps), steps_done_(steps_done), every_(every), terminal_(isatty(STDOUT_FILENO)) {}

ProgressPrinter::~ProgressPrinter() { clear_bar(); }

void ProgressPrinter::clear_bar() {
  if (bar_shown_) std::fputs("\r\033[K", stdout);
  bar_shown_ = false;
}

void ProgressPrinter::print(const EvalResult& eval) {
  say(fmt::format("eval_loss {:.4f} over {} tokens | {:.1f} s", eval.loss, eval.trained_tokens, eval.seconds));
}

void ProgressPrinter::say(const std::string& line) {
  clear_bar();
  log_line(line);
}

void ProgressPrinter::print(const StepMetrics& m) {
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  clear_bar();
  if (m.step % every_ == 0 || m.step == total_steps_ || m.step == steps_done_ + 1) {
    log_info(
        "step {:>{}}/{} | loss {:.4f} | grad_norm {:.3f} | lr[adapter] {:.2e} | {} elapsed | {:.2f} steps/s | {:.0f} "
        "tokens/s | {}",
        m.step, fmt::formatted_size("{}", total_steps_), total_steps_, m.result.loss, m.result.grad_norm,
        m.learning_rate, clock_text(elapsed), (m.step - steps_done_) / std::max(elapsed, 1e-9), tokens_per_second(m),
        format_bytes(m.result.peak_memory_bytes));
  }
  if (!terminal_) return;
  constexpr int kWidth = 40;
  const int filled = static_cast<int>(kWidth * m.step / total_steps_);
  const double left = elapsed / (m.step - steps_done_) * (total_steps_ - m.step);
  const std::string bar = fmt::format("[{:#>{}}{:.>{}}] {:3}% | {} left", "", filled, "", kWidth - filled,
                                      100 * m.step / total_steps_, clock_text(left));
  std::fputs(bar.c_str(), stdout);
  std::fflush(stdout);
  bar_shown_ = true;
}

}  // namespace moraine
