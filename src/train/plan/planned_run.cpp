#include "train/plan/planned_run.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <numeric>

#include "adapter/make_adapter.h"
#include "base/error.h"
#include "data/batch_stream.h"
#include "load/check_checkpoint.h"
#include "models/output_head.h"
#include "parallel/placement.h"

namespace moraine {
namespace {

bool holds_weights(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) return false;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
    if (entry.path().extension() == ".safetensors") return true;
  return false;
}

std::vector<ImageSpec> with_one_source_each(std::vector<ImageSpec> specs) {
  for (ImageSpec& spec : specs)
    for (ParamSpec& param : spec.params) param.sources = {{"", param.shape, 0}};
  return specs;
}

}  // namespace

int64_t PlannedModel::first_adapted_layer() const {
  int64_t first = std::numeric_limits<int64_t>::max();
  for (const LoraModule& module : targets) first = std::min(first, module.layer);
  return first;
}

PlannedModel read_planned_model(const Recipe& recipe) {
  if (recipe.model.path.empty()) {
    throw input_error("recipe", "missing key 'model.path'", "a checkpoint's folder, or its config.json alone");
  }
  const std::filesystem::path path = recipe.model.path;
  const HfConfig config = HfConfig::read(path);
  const auto layout = make_layout(config, word_of(recipe.model.dtype));
  const BaseFormat base_format = recipe.model.base_format;
  PlannedModel model;
  model.architecture = config.architecture();
  model.shape = layout->shape();
  model.has_weights = holds_weights(path);
  if (model.has_weights) {
    model.index = read_checkpoint_index(path);
    model.specs = image_specs(*layout, stored_in(model.index), base_format);
    check_checkpoint(model.specs, model.index, [&](const std::string& tensor) { return layout->why_skipped(tensor); });
    warn_of_stored_head(config, model.specs.front());
  } else {
    model.specs = image_specs(*layout, no_checkpoint(), base_format);
    model.index = assumed_index(image_specs(*layout, no_checkpoint()));
  }
  model.sizes = with_one_source_each(model.specs);
  AdapterSelection adapter = select_adapter(*layout, recipe.adapter, recipe.model.path);
  warn_of_unmatched_targets(adapter.unmatched, recipe.adapter.init_from);
  model.targets = std::move(adapter.targets.modules);
  model.r = adapter.config.r;
  return model;
}

int64_t PlannedRun::micro_steps() const { return num_micro_steps(batch_size, micro_batch_size, mesh.world_size()); }

// Rows are dealt as rows_of_micro_step deals them: all ranks are full in every micro-step but the last.
int64_t PlannedRun::sequences_a_step(int64_t rank) const {
  const int64_t a_micro_step = micro_batch_size * mesh.world_size(), full = batch_size / a_micro_step;
  return full * micro_batch_size + std::clamp<int64_t>(batch_size - full * a_micro_step - rank * micro_batch_size, 0, micro_batch_size);
}

int64_t PlannedRun::sequences_at_once(int64_t rank) const { return std::min(micro_batch_size, sequences_a_step(rank)); }

PlannedRun planned_run(const Recipe& recipe, const PlannedModel& model, int64_t world_size, int64_t ranks_per_node) {
  PlannedRun run;
  run.mesh = Mesh::make(world_size, {recipe.mesh.ep, recipe.mesh.fsdp, recipe.mesh.replicate});
  expert_range(model.shape.num_experts, run.mesh.ep, 0);  // refuses more EP ranks than experts
  run.ranks_per_node = ranks_per_node;
  run.r = model.r;
  run.batch_size = recipe.train.batch_size.value_or(world_size);
  run.micro_batch_size = recipe.train.micro_batch_size;
  run.max_length = recipe.data.max_length;
  run.recompute = recipe.train.recompute == Recompute::kFull;
  run.load_mode = recipe.load.mode;
  run.resident_bytes = recipe.mesh.resident.bytes;
  return run;
}

int64_t smallest_world(const MeshConfig& mesh) {
  return std::lcm(mesh.ep, mesh.fsdp.value_or(1)) * mesh.replicate.value_or(1);
}

int64_t num_shards(const Mesh& mesh, ImageKind kind) { return mesh.group_size(shard_axis(kind)); }

}  // namespace moraine
