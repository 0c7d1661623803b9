// What a run must have in common with the one whose snapshot it goes on from: all that changes the mathematics, and
// nothing else. Mesh, number of ranks, micro-batches, recomputation, places of files, how often is saved and logged:
// they may differ.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/opened_checkpoint.h"
#include "config/recipe.h"
#include "run/run_inputs.h"

namespace moraine {

struct RunFacts {
  // Recipe key → value, as it took effect. Where the key alone does not tell (the rows that a file holds), the value is
  // a hash.
  std::vector<std::pair<std::string, std::string>> compared;
  std::vector<std::pair<std::string, std::string>>
      recipe;  // all keys as they were written: they explain a hash that differs

  OrderedJson to_json() const;
  // Throws Json::exception where `json` is none.
  static RunFacts from_json(const OrderedJson& json);
};

// What a run is about, as all its ranks see it.
struct RunShape {
  const OpenedCheckpoint& checkpoint;
  const DataRows& training;
  int64_t steps = 0;  // of the schedule
  int64_t batch_size = 0;
};

// Reads a sample of the checkpoint's bytes and adapter.init_from: rank 0 calls it. Throws input errors for an adapter
// that cannot be.
RunFacts run_facts(const Recipe& recipe, const RunShape& shape);

// The first difference, as an input error that names the key and both values; nullopt when there is none. Pure.
std::optional<Error> first_difference(const RunFacts& now, const RunFacts& then, const std::string& snapshot);

// One warning that lists the recipe keys that were written otherwise in the run of `folder`, which is finished and
// agrees in all else: they come too late (data.eval, save.every).
void warn_of_changes_without_effect(const RunFacts& now, const RunFacts& then, const std::string& folder);

}  // namespace moraine
