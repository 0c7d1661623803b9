// A checkpoint folder opened: configuration, model, and the base weights of this rank.
#pragma once

#include <filesystem>
#include <memory>

#include "dist/mesh_groups.h"
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
  at::Device device = at::kCPU;
  int64_t row_alignment = 1;  // see gemm_row_alignment

  // Where an image lies in `weights`: the order of image_specs.
  static constexpr int kRootImage = 0;
  static int dense_image(int64_t layer) { return static_cast<int>(1 + 2 * layer); }
  static int experts_image(int64_t layer) { return static_cast<int>(2 + 2 * layer); }
};

struct LoadOptions {
  std::string dtype = "auto";  // model.dtype
  Verify verify = Verify::kFull;
  int num_threads = 2;
  at::Device device = at::kCPU;
};

// Reads headers, plans, loads this rank's shards and verifies. Root and dense images are sharded over `groups.dense_gather`,
// expert images (of this rank's experts in `groups.tokens`) over `groups.expert_gather`; the groups outlive the model. Each
// rank reads its own bytes: nothing travels. Throws input errors for anything wrong with the folder.
LoadedModel open_model(const std::filesystem::path& folder, const LoadOptions& options, MeshGroups& groups);

}  // namespace moraine
