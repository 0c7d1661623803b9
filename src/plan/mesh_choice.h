// The ways to spread a run over its ranks, each with what it needs and how long its step is predicted to take.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "plan/planned_run.h"
#include "plan/step_time.h"

namespace moraine {

// What may differ from the run as it is.
struct Freedom {
  bool mesh = false;  // ep, and where they are not given:
  std::optional<int64_t> fsdp, replicate = {};
  bool offload = false;  // with it mesh.resident, where it is 0: what the memory leaves
  bool recompute = false;
};

// What the recipe leaves to be decided.
Freedom freedom_of(const Recipe& recipe);

struct RunOption {
  PlannedRun run;
  uint64_t peak = 0, host = 0;  // bytes of the fullest rank: of its device, and of the host's memory
  bool fits = false;            // in rates.memory less a twentieth, which fragments may take, and rates.host_memory
  StepTime time;
};

// All that training accepts, the best first: of those that fit the fastest, then those that need least. Where figures
// are equal the one with fewer bytes, then the smaller ep counts: the same order wherever the same figures are
// compared. At least one.
std::vector<RunOption> run_options(const PlannedModel& model, const PlannedRun& run, const Freedom& freedom);

// `recipe` with what it leaves to be decided as `run` has it.
Recipe decided(Recipe recipe, const PlannedRun& run);
// Why the first of `options` is taken, on one line: "mesh.ep=8 …: predicted to be the fastest that fits, 1.4 s a step
// …".
std::string reason_of(const std::vector<RunOption>& options);

// "ep 8, fsdp 8, replicate 1, offload experts (58.0 GiB resident), recompute full".
std::string describe_option(const PlannedRun& run);

}  // namespace moraine
