#include "models/loaded_model.h"

#include "models/output_head.h"
#include "nn/gemm_shapes.h"
#include "parallel/torch_dtype.h"

namespace moraine {

LoadedWeights load_weights(const CheckpointHeaders& headers, const ModelLayout& layout, const LoadSettings& settings,
                           MeshGroups& groups) {
  LoadedWeights loaded;
  const Placement placement(image_specs(layout, stored_in(headers.index), settings.base_format), layout.shape().num_experts, groups.mesh);
  loaded.skipped = check_checkpoint(placement.specs(), headers.index,
                                    [&](const std::string& tensor) { return layout.why_skipped(tensor); });
  if (groups.world->rank() == 0) warn_of_stored_head(headers.config, placement.specs().front());
  LoadedShards shards = load_shards(placement, headers.index, groups, settings);
  loaded.report = shards.report;
  std::vector<StoredImage> images;
  for (size_t i = 0; i < shards.bytes.size(); ++i) {
    const ImageKind kind = placement.specs()[i].kind;
    ProcessGroup* group = kind == ImageKind::kExperts ? groups.expert_gather.get() : groups.dense_gather.get();
    // Root, dense and expert images take turns among themselves.
    images.push_back({placement.image(i, groups.world->rank()), std::move(shards.bytes[i]), group, static_cast<int>(kind)});
  }
  loaded.store = std::make_unique<WeightStore>(std::move(images), settings.resident_bytes);
  return loaded;
}

LoadedModel open_model(const CheckpointHeaders& headers, const std::string& dtype, const LoadSettings& settings,
                       MeshGroups& groups) {
  LoadedModel loaded{headers.config, make_model(headers.config, dtype), nullptr, nullptr, {}, {}, settings.device};
  const ModelShape& shape = loaded.model->shape();
  loaded.row_alignment = gemm_row_alignment(settings.device, torch_dtype(shape.dtype));
  loaded.experts = std::make_unique<ExpertParallel>(shape.num_experts, loaded.row_alignment, *groups.tokens);
  LoadedWeights weights = load_weights(headers, loaded.model->layout(), settings, groups);
  loaded.weights = std::move(weights.store);
  loaded.report = weights.report;
  loaded.skipped = std::move(weights.skipped);
  return loaded;
}

LoadedModel open_model(const std::filesystem::path& folder, const std::string& dtype, const LoadSettings& settings,
                       MeshGroups& groups) {
  return open_model(read_headers(folder), dtype, settings, groups);
}

}  // namespace moraine
