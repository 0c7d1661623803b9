#include "train/run_log.h"

namespace moraine {

RunLog::RunLog(const WorldInfo& world, const RunFolder& run, const LogConfig& config, int64_t steps_done,
               int64_t total_steps) {
  if (world.rank != 0) return;
  writer_.emplace(run.metrics(), steps_done, total_steps, config.every);
  if (config.tensorboard) writer_->tensorboard.emplace(run.tensorboard(), steps_done + 1);
}

RunLog::Writer::Writer(const std::filesystem::path& metrics_file, int64_t steps_done, int64_t total_steps,
                       int64_t every)
    : metrics(metrics_file, steps_done), progress(total_steps, steps_done, every) {}

void RunLog::add(const StepMetrics& metrics) {
  if (!writer_) return;
  writer_->metrics.append(metrics);
  if (writer_->tensorboard) writer_->tensorboard->add_scalars(metrics.step, tensorboard_scalars(metrics));
  writer_->progress.print(metrics);
}

void RunLog::add(int64_t step, const EvalResult& eval) {
  if (!writer_) return;
  writer_->metrics.add_to_last(eval);
  if (writer_->tensorboard) writer_->tensorboard->add_scalars(step, {{"eval/loss", eval.loss}});
  writer_->progress.print(eval);
}

void RunLog::say(const std::string& line) {
  if (writer_) writer_->progress.say(line);
}

void RunLog::sync() {
  if (writer_) writer_->metrics.sync();
}

}  // namespace moraine
