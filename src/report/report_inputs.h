// What a report is made of: the files of a run folder, as far as they can be read.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "config/recipe.h"
#include "report/metrics_summary.h"

namespace moraine {

struct ReportInputs {
  std::filesystem::path folder;
  MetricsSummary metrics;
  Json run, load;  // run.json and load.json; null where there is none
  std::optional<Recipe> recipe;
  std::string recipe_text;
  bool has_adapter = false;        // the final one
  std::vector<std::string> notes;  // what is missing or cannot be read, a sentence each

  int64_t total_steps() const;  // that the run shall have; 0 = not known
  // Words of the run's end: "finished", or what stopped it ("train.stop_after", "SIGTERM"); "" = it has none.
  std::string end() const;
  std::string model_name() const;  // the last part of its path
};

// Throws an input error when `folder` is no run's: no such folder, no metrics.jsonl. Other files may be missing or
// damaged.
ReportInputs read_report_inputs(const std::filesystem::path& folder);

}  // namespace moraine
