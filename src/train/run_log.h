// Where a run's figures go: metrics.jsonl, TensorBoard and the terminal.
#pragma once

#include <optional>
#include <string>

#include "config/recipe.h"
#include "distributed/control/launch.h"
#include "formats/tensorboard_events.h"
#include "run/run_folder.h"
#include "train/metrics.h"

namespace moraine {

// Of rank 0; on other ranks it does nothing.
class RunLog {
 public:
  // Goes on behind `steps_done` of `total_steps` steps. Throws a run error that names the file that cannot be written.
  RunLog(const WorldInfo& world, const RunFolder& run, const LogConfig& config, int64_t steps_done,
         int64_t total_steps);

  void add(const StepMetrics& metrics);
  // After step `step`, the last that was added.
  void add(int64_t step, const EvalResult& eval);
  void say(const std::string& line);
  // What was added survives a loss of power.
  void sync();

 private:
  struct Writer {
    Writer(const std::filesystem::path& metrics_file, int64_t steps_done, int64_t total_steps, int64_t every);
    MetricsFile metrics;
    ProgressPrinter progress;
    std::optional<TensorboardEvents> tensorboard;
  };
  std::optional<Writer> writer_;
};

}  // namespace moraine
