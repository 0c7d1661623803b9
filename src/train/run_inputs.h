// What a run reads before its weights, on every rank: the checkpoint's headers and the training rows.
#pragma once

#include "config/recipe.h"
#include "data/dataset.h"
#include "dist/mesh_groups.h"
#include "load/checkpoint_headers.h"
#include "load/load.h"

namespace moraine {

// The mesh and the groups of all ranks of control's world; refuses more EP ranks than `num_experts`.
struct RunGroups {
  std::unique_ptr<BackendFactory> backends;  // outlives the groups
  MeshGroups groups;
};
RunGroups make_run_groups(const Recipe& recipe, Control& control);

LoadSettings load_settings(const Recipe& recipe, const WorldInfo& world);

// Read by every rank, or in load.mode rank0 by rank 0 for all. All ranks of the world must call these. Throw input errors.
CheckpointHeaders read_run_headers(const Recipe& recipe, MeshGroups& groups);
Dataset read_training_data(const Recipe& recipe, int64_t vocab_size, MeshGroups& groups);

// One hash (load/fingerprint) of all samples.
std::string hash_rows(const Dataset& data);

// Refuses a world whose ranks were given different recipes, checkpoints, data or programs: they would train something nobody
// asked for. `data` may be null.
void check_same_on_all_ranks(Control& control, const Recipe& recipe, const CheckpointHeaders& headers, const Dataset* data);

}  // namespace moraine
