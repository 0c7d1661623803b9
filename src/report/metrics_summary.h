// metrics.jsonl read once from beginning to end in bounded memory: curves, totals, and what was wrong with the file.
#pragma once

#include <filesystem>

#include "formats/series.h"

namespace moraine {

struct MetricsSummary {
  Series loss, eval_loss, grad_norm, learning_rate, tokens_per_second, step_seconds, expert_load_imbalance, aux_loss,
      peak_memory_bytes;
  Quantiles step_time;
  int64_t steps = 0;  // lines of steps
  int64_t first_step = 0, last_step = 0;
  int64_t tokens = 0, trained_tokens = 0;
  double train_seconds = 0, eval_seconds = 0;
  int64_t clipped = 0;  // steps whose grad_norm was above max_grad_norm

  bool last_line_is_cut = false;  // as a killed run leaves it, or one that is writing
  int64_t unreadable_lines = 0;   // others that are no steps, or steps out of order
  int64_t first_unreadable = 0;   // the number of the first, from 1

  int64_t missing_steps() const { return steps == 0 ? 0 : last_step - first_step + 1 - steps; }
};

// `max_grad_norm`: 0 = gradients are not clipped. Throws an input error when the file is missing or holds something
// else than steps.
MetricsSummary summarize_metrics(const std::filesystem::path& file, double max_grad_norm);

}  // namespace moraine
