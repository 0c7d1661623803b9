// What a run reports of each step, and how metrics.jsonl and the terminal show it.
#pragma once

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "train/evaluate.h"
#include "train/step.h"

namespace moraine {

struct StepMetrics {
  int64_t step = 0;  // completed steps, from 1
  StepResult result;
  double learning_rate = 0;
  double step_seconds = 0;
  std::optional<EvalResult> eval = {};  // after this step
};

// Named as transformers' Trainer names them in TensorBoard.
std::vector<std::pair<std::string, double>> tensorboard_scalars(const StepMetrics& metrics);

// Appends one JSON object a step, flushed at once.
class MetricsFile {
 public:
  // Goes on behind the lines of the first `steps_kept` steps; what follows them, a torn line too, is cut off. 0 starts the file anew.
  // Throws a run error that names the path.
  MetricsFile(const std::filesystem::path& path, int64_t steps_kept);
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;
  void append(const StepMetrics& metrics);
  // What was appended survives a loss of power.
  void sync();

 private:
  std::filesystem::path path_;
  std::FILE* file_;
};

// Step lines on stdout; on a terminal a progress bar below them.
class ProgressPrinter {
 public:
  // `steps_done`: of an earlier part of the run.
  ProgressPrinter(int64_t total_steps, int64_t steps_done, int64_t every);
  ~ProgressPrinter();
  void print(const StepMetrics& metrics);
  // Another line, in the bar's place.
  void say(const std::string& line);

 private:
  void clear_bar();

  int64_t total_steps_, steps_done_, every_;
  bool terminal_;
  bool bar_shown_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace moraine
