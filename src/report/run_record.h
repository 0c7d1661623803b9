// run.json: what a run is, and when and how each of its sessions (starts of the program) went. Rank 0 writes it before
// the first step, brings it up to date with each snapshot and at the end, and writes report.html beside it.
//
//   {"moraine", "model": {…}, "adapter": {…}, "data": {…}, "mesh": {…}, "device", "threads_per_rank", "steps",
//   "batch_size",
//    "planned_peak_bytes", "resume": {"compared", "recipe"},
//    "saved": {"tensors", "elements", "bytes", "xxh3", "lora_b", "lora_b_zero"},
//    "sessions": [{"started", "moraine", "ranks", "first_step", "resumed_from", "updated", "seconds", "step", "end"}]}
//
// Times are UTC, ISO 8601; `step` counts completed steps, of which `first_step` were done before; `end` is "finished",
// "train.stop_after" or a signal's name, and null as long as the session goes on (or when it was killed). `resume` is
// what a start of the program must have in common with the run (run/resume_check), as in a snapshot's state.json.
// `saved`, where the run has come to its end, is what lies in adapter/, as it was read back.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "base/json.h"
#include "run/resume_check.h"

namespace moraine {

// What the run of this folder is about; nullopt where its run.json does not say (of an earlier version, or damaged).
std::optional<RunFacts> recorded_facts(const std::filesystem::path& folder);

class RunRecord {
 public:
  // `facts`: describe_run, without what resume_check compares. A run that goes on keeps the sessions that the folder's
  // run.json names. Throws a run error that names the file.
  RunRecord(const std::filesystem::path& folder, OrderedJson facts, const RunFacts& resume,
            std::chrono::system_clock::time_point started, int64_t first_step, const std::string& resumed_from);

  // What adapter/ holds; written with end().
  void saved(OrderedJson adapter) { facts_["saved"] = std::move(adapter); }
  // `steps` are done and saved. The report is written too, unless metrics.jsonl is so long that steps would wait for
  // it.
  void snapshot(int64_t steps);
  // The run ends in order; `why` as `end` above. Returns what to tell the user of it. Like snapshot() it fails with no
  // more than a warning: the run's results are there.
  std::string end(int64_t steps, const std::string& why);

 private:
  void update(int64_t steps);
  void write() const;

  std::filesystem::path folder_;
  OrderedJson facts_;
  std::chrono::system_clock::time_point started_;
};

}  // namespace moraine
