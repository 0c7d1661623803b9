// What a run reads before its weights, on every rank: the checkpoint without them, and the rows of its data.
#pragma once

#include "checkpoint/load.h"
#include "checkpoint/opened_checkpoint.h"
#include "config/recipe.h"
#include "distributed/collectives/mesh_groups.h"
#include "run/batch.h"
#include "text/rows/dataset.h"

namespace moraine {

// The mesh and the groups of all ranks of control's world; refuses more EP ranks than `num_experts`.
struct RunGroups {
  std::unique_ptr<BackendFactory> backends;  // outlives the groups
  MeshGroups groups;
  at::Device device;  // of this rank, made its current one
};
RunGroups make_run_groups(const Recipe& recipe, Control& control);

LoadSettings load_settings(const Recipe& recipe, const WorldInfo& world, at::Device device = at::kCPU);

// What data files hold: sequences, and which of them share a row of a batch (data.packing).
struct DataRows {
  Dataset data;
  std::vector<std::vector<int64_t>> rows;  // of samples

  int64_t size() const { return static_cast<int64_t>(rows.size()); }
  int64_t num_tokens() const;      // of all samples
  int64_t longest_sample() const;  // tokens
  // The rows of these numbers; they point into `data`.
  std::vector<TrainingRow> at(const std::vector<int64_t>& numbers) const;
  std::vector<TrainingRow> all() const;
};

// Read by every rank, or in load.mode rank0 by rank 0 for all. All ranks of the world must call these. Throw input
// errors.
OpenedCheckpoint open_run_checkpoint(const Recipe& recipe, MeshGroups& groups);
// Throws an input error for train.aux_loss_coef where transformers' class has no auxiliary loss on the routing.
void check_router_loss(const Recipe& recipe, const ModelShape& shape);
// `key`: the recipe's, of `files`; asked for once.
DataRows read_rows(const Recipe& recipe, const std::string& key, const std::vector<std::string>& files,
                   int64_t vocab_size, MeshGroups& groups);

// One hash (checkpoint/fingerprint) of all rows.
std::string hash_rows(const DataRows& rows);

// Refuses a world whose ranks were given different recipes, checkpoints, rows (of each recipe key in `rows`) or
// programs: they would train something nobody asked for.
void check_same_on_all_ranks(Control& control, const Recipe& recipe, const OpenedCheckpoint& checkpoint,
                             const std::vector<std::pair<std::string, const DataRows*>>& rows = {});

}  // namespace moraine
