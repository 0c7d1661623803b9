#include "checkpoint/loaded_model.h"

#include "models/output_head.h"
#include "nn/gemm_shapes.h"
#include "tensor/torch_dtype.h"

namespace moraine {

LoadedWeights load_weights(const OpenedCheckpoint& checkpoint, const LoadSettings& settings, MeshGroups& groups) {
  if (groups.world->rank() == 0) warn_of_stored_head(checkpoint.headers.config, checkpoint.specs[kRootImage]);
  const Placement placement(checkpoint.specs, checkpoint.shape().num_experts, groups.mesh);
  std::vector<StoredImage> images;
  for (size_t i = 0; i < placement.specs().size(); ++i) {
    const ImageKind kind = placement.specs()[i].kind;
    ProcessGroup* group = kind == ImageKind::kExperts ? groups.expert_gather.get() : groups.dense_gather.get();
    const bool offloaded = is_offloaded(kind, group->size(), settings.offload);
    images.push_back({placement.image(i, groups.world->rank()), {}, group, lane_of(kind), offloaded});
  }
  std::vector<bool> on_host;
  {
    const GatherSchedule schedule = schedule_of(images, settings.resident_bytes);
    for (size_t i = 0; i < images.size(); ++i)
      on_host.push_back(images[i].offloaded && !schedule.is_resident(static_cast<int>(i)));
  }
  LoadedShards shards = load_shards(placement, checkpoint.headers.index, groups, settings, on_host);
  for (size_t i = 0; i < images.size(); ++i) images[i].shard = std::move(shards.bytes[i]);
  return {std::make_unique<WeightStore>(std::move(images), settings.resident_bytes, settings.device), shards.report};
}

LoadedModel load_model(const OpenedCheckpoint& checkpoint, const LoadSettings& settings, MeshGroups& groups) {
  LoadedModel loaded;
  loaded.model = checkpoint.model;
  loaded.device = settings.device;
  loaded.row_alignment = gemm_row_alignment(settings.device, torch_dtype(checkpoint.shape().dtype));
  loaded.experts =
      std::make_unique<ExpertParallel>(checkpoint.shape().num_experts, loaded.row_alignment, *groups.tokens);
  LoadedWeights weights = load_weights(checkpoint, settings, groups);
  loaded.weights = std::move(weights.store);
  loaded.report = weights.report;
  return loaded;
}

LoadedModel open_model(const std::filesystem::path& folder, DtypeChoice dtype, const LoadSettings& settings,
                       MeshGroups& groups) {
  return load_model(open_checkpoint(folder, dtype), settings, groups);
}

}  // namespace moraine
