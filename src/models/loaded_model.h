// A checkpoint folder opened: configuration, model, and the base weights of this rank.
#pragma once

#include <filesystem>
#include <memory>

#include "dist/mesh_groups.h"
#include "load/check_checkpoint.h"
#include "load/checkpoint_headers.h"
#include "load/load.h"
#include "models/model.h"
#include "parallel/weight_store.h"

namespace moraine {

struct LoadedModel {
  HfConfig config;
  std::unique_ptr<Model> model;
  std::unique_ptr<ExpertParallel> experts;
  std::unique_ptr<WeightStore> weights;
  LoadReport report;
  std::vector<SkippedTensor> skipped;  // tensors of the checkpoint that no image holds
  at::Device device = at::kCPU;
  int64_t row_alignment = 1;  // see gemm_row_alignment

  // Where an image lies in `weights`: the order of image_specs.
  static constexpr int kRootImage = 0;
  static int dense_image(int64_t layer) { return static_cast<int>(1 + 2 * layer); }
  static int experts_image(int64_t layer) { return static_cast<int>(2 + 2 * layer); }
};

// The base weights of this rank alone, for families too whose mathematics is not built.
struct LoadedWeights {
  std::unique_ptr<WeightStore> store;
  LoadReport report;
  std::vector<SkippedTensor> skipped;  // tensors of the checkpoint that no image holds
};

// Plans, loads this rank's shards and verifies; all ranks of the world must call this with the same headers. Root and dense
// images are sharded over `groups.dense_gather`, expert images (of this rank's experts in `groups.tokens`) over
// `groups.expert_gather`; the groups outlive the weights. Throws input errors for anything wrong with the checkpoint.
LoadedWeights load_weights(const CheckpointHeaders& headers, const ModelLayout& layout, const LoadSettings& settings,
                           MeshGroups& groups);

// The weights and what works with them. `dtype` as model.dtype.
LoadedModel open_model(const CheckpointHeaders& headers, const std::string& dtype, const LoadSettings& settings, MeshGroups& groups);
// In one process.
LoadedModel open_model(const std::filesystem::path& folder, const std::string& dtype, const LoadSettings& settings, MeshGroups& groups);

}  // namespace moraine
