// What a run reports of each step: metrics.jsonl and the lines a user reads.
#pragma once

#include <chrono>
#include <cstdio>
#include <filesystem>

#include "train/step.h"

namespace moraine {

struct StepMetrics {
  int64_t step = 0;  // completed steps, from 1
  StepResult result;
  double learning_rate = 0;
  double step_seconds = 0;
};

// Appends one JSON object a step, flushed at once.
class MetricsFile {
 public:
  // Starts the file anew. Throws a run error that names the path.
  explicit MetricsFile(const std::filesystem::path& path);
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;
  void append(const StepMetrics& metrics);

 private:
  std::filesystem::path path_;
  std::FILE* file_;
};

// Step lines on stdout; on a terminal a progress bar below them.
class ProgressPrinter {
 public:
  ProgressPrinter(int64_t total_steps, int64_t every);
  ~ProgressPrinter();
  void print(const StepMetrics& metrics);

 private:
  int64_t total_steps_, every_;
  bool terminal_;
  bool bar_shown_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace moraine
