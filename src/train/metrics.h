// What a run reports of each step, and how metrics.jsonl and the terminal show it.
#pragma once

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "train/evaluate.h"
#include "train/step.h"

namespace moraine {

struct StepMetrics {
  int64_t step = 0;  // completed steps, from 1
  StepResult result = {};
  double learning_rate = 0;
  double step_seconds = 0;
};

// Named as transformers' Trainer names them in TensorBoard.
std::vector<std::pair<std::string, double>> tensorboard_scalars(const StepMetrics& metrics);

// Appends one JSON object a step, flushed at once.
class MetricsFile {
 public:
  // Goes on behind the lines of steps up to `steps_kept`; what follows them, a torn line too, is cut off. 0 starts the
  // file anew. Throws a run error that names the path.
  MetricsFile(const std::filesystem::path& path, int64_t steps_kept);
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;
  void append(const StepMetrics& metrics);
  // Adds to the line of the last step.
  void add_to_last(const EvalResult& eval);
  // What was appended survives a loss of power.
  void sync();

 private:
  void write(const std::string& text);

  std::filesystem::path path_;
  std::FILE* file_;
  OrderedJson last_;
};

// Step lines on stdout; on a terminal a progress bar below them.
class ProgressPrinter {
 public:
  // `steps_done`: of an earlier part of the run.
  ProgressPrinter(int64_t total_steps, int64_t steps_done, int64_t every);
  ~ProgressPrinter();
  void print(const StepMetrics& metrics);
  void print(const EvalResult& eval);
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
