#include "models/loaded_model.h"

#include "nn/gemm_shapes.h"
#include "parallel/torch_dtype.h"

namespace moraine {
std::vector<ImageSpec> image_specs(const Model& model, const HasTensor& has_tensor) {
  std::vector<ImageSpec> specs{model.root_spec(has_tensor)};
  for (int64_t layer = 0; layer < model.shape().num_hidden_layers; ++layer) {
    specs.push_back(model.dense_spec(layer, has_tensor));
    specs.push_back(model.experts_spec(layer, has_tensor));
  }
  return specs;
}

LoadedModel open_model(const std::filesystem::path& folder, const LoadOptions& options, MeshGroups& groups) {
  LoadedModel loaded{HfConfig::read(folder), nullptr, nullptr, nullptr, {}, options.device};
  loaded.model = make_model(loaded.config, options.dtype);
  const ModelShape& shape = loaded.model->shape();
  loaded.row_alignment = gemm_row_alignment(options.device, torch_dtype(shape.dtype));
  loaded.experts = std::make_unique<ExpertParallel>(shape.num_experts, loaded.row_alignment, *groups.tokens);

  const CheckpointIndex index = read_checkpoint_index(folder);
  const auto specs = image_specs(*loaded.model, [&](const std::string& name) { return index.find(name) != nullptr; });
  std::vector<StoredImage> images;
  for (size_t i = 0; i < specs.size(); ++i) {
    const bool is_experts = i > 0 && i % 2 == 0;
    ProcessGroup* group = is_experts ? groups.expert_gather.get() : groups.dense_gather.get();
    const int lane = i == 0 ? kRootLane : is_experts ? kExpertsLane : kDenseLane;
    images.push_back({lay_out_image(specs[i], loaded.experts->local_experts(), group->size()), {}, group, lane});
  }
  std::vector<ShardPlan> shards;
  for (const StoredImage& stored : images)
    shards.push_back({&stored.image, shard_of_image(stored.image, stored.group->size(), stored.group->rank())});
  const LoadPlan plan = plan_reads(shards, index);
  check_no_unexpected(specs, index, [&](const std::string& tensor) { return loaded.model->is_known_extra(tensor); });

  LoadedShards bytes = load_shards(plan, index, options.device, options.verify, options.num_threads);
  loaded.report = bytes.report;
  for (size_t i = 0; i < images.size(); ++i) images[i].shard = std::move(bytes.bytes[i]);
  loaded.weights = std::make_unique<WeightStore>(std::move(images));
  return loaded;
}

}  // namespace moraine
