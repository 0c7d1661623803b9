// The base weights of this rank, loaded from an opened checkpoint, and what works with them.
#pragma once

#include <filesystem>
#include <memory>

#include "checkpoint/load.h"
#include "checkpoint/opened_checkpoint.h"
#include "distributed/collectives/mesh_groups.h"
#include "models/model.h"
#include "parallel/weight_store.h"

namespace moraine {

struct LoadedModel {
  std::shared_ptr<const Model> model;
  std::unique_ptr<ExpertParallel> experts;
  std::unique_ptr<WeightStore> weights;  // images in the order of image_order.h
  LoadReport report;
  at::Device device = at::kCPU;
  int64_t row_alignment = 1;  // see gemm_row_alignment
};

// The base weights of this rank alone.
struct LoadedWeights {
  std::unique_ptr<WeightStore> store;
  LoadReport report;
};

// Plans, loads this rank's shards and verifies; all ranks of the world must call this with the same checkpoint. Root
// and dense images are sharded over `groups.dense_gather`, expert images (of this rank's experts in `groups.tokens`)
// over `groups.expert_gather`; the groups outlive the weights. Throws input errors for files that are not as their
// headers say.
LoadedWeights load_weights(const OpenedCheckpoint& checkpoint, const LoadSettings& settings, MeshGroups& groups);

LoadedModel load_model(const OpenedCheckpoint& checkpoint, const LoadSettings& settings, MeshGroups& groups);
// In one process. `dtype` as model.dtype.
LoadedModel open_model(const std::filesystem::path& folder, DtypeChoice dtype, const LoadSettings& settings,
                       MeshGroups& groups);

}  // namespace moraine
