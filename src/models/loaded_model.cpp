#include "models/loaded_model.h"

#include "load/check_checkpoint.h"
#include "nn/gemm_shapes.h"
#include "parallel/torch_dtype.h"

namespace moraine {
LoadedModel open_model(const std::filesystem::path& folder, const LoadOptions& options, MeshGroups& groups) {
  LoadedModel loaded{HfConfig::read(folder), nullptr, nullptr, nullptr, {}, options.device};
  loaded.model = make_model(loaded.config, options.dtype);
  const ModelShape& shape = loaded.model->shape();
  loaded.row_alignment = gemm_row_alignment(options.device, torch_dtype(shape.dtype));
  loaded.experts = std::make_unique<ExpertParallel>(shape.num_experts, loaded.row_alignment, *groups.tokens);

  const CheckpointIndex index = read_checkpoint_index(folder);
  const Placement placement(image_specs(loaded.model->layout(), stored_in(index)), shape.num_experts, groups.mesh);
  check_checkpoint(placement.specs(), index, [&](const std::string& tensor) { return loaded.model->layout().why_skipped(tensor); });
  const LoadPlan plan = plan_reads(placement.shards_of(groups.world->rank()), index);

  LoadedShards bytes = load_shards(plan, index, options.device, options.verify, options.num_threads);
  loaded.report = bytes.report;
  std::vector<StoredImage> images;
  for (size_t i = 0; i < plan.shards.size(); ++i) {
    const ImageKind kind = placement.specs()[i].kind;
    ProcessGroup* group = kind == ImageKind::kExperts ? groups.expert_gather.get() : groups.dense_gather.get();
    // Root, dense and expert images take turns among themselves.
    images.push_back({*plan.shards[i].image, std::move(bytes.bytes[i]), group, static_cast<int>(kind)});
  }
  loaded.weights = std::make_unique<WeightStore>(std::move(images));
  return loaded;
}

}  // namespace moraine
