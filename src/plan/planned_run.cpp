#include "plan/planned_run.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "adapter/make_adapter.h"
#include "base/error.h"
#include "distributed/collectives/device.h"
#include "models/output_head.h"
#include "parallel/placement.h"
#include "text/rows/batch_stream.h"

namespace moraine {
namespace {

std::vector<ImageSpec> with_one_source_each(std::vector<ImageSpec> specs) {
  for (ImageSpec& spec : specs)
    for (ParamSpec& param : spec.params) param.sources = {{"", param.shape, 0}};
  return specs;
}

bool plans_cuda(DeviceChoice choice) {
  return choice == DeviceChoice::kCuda || (choice == DeviceChoice::kAuto && visible_cuda_devices() > 0);
}

}  // namespace

PlannedModel::PlannedModel(const OpenedCheckpoint& checkpoint, std::vector<LoraModule> targets, double dropout)
    : checkpoint(checkpoint),
      shape(checkpoint.shape()),
      targets(std::move(targets)),
      dropout(dropout),
      sizes(with_one_source_each(checkpoint.specs)) {}

int64_t PlannedModel::first_adapted_layer() const {
  int64_t first = std::numeric_limits<int64_t>::max();
  for (const LoraModule& module : targets) first = std::min(first, module.layer);
  return std::max<int64_t>(first, 0);  // the embedding's adapter needs all
}

OpenedCheckpoint open_planned_checkpoint(const Recipe& recipe) {
  if (recipe.model.path.empty()) {
    throw input_error("recipe", "missing key 'model.path'", "a checkpoint's folder, or its config.json alone");
  }
  OpenedCheckpoint checkpoint =
      open_or_assume_checkpoint(recipe.model.path, recipe.model.dtype, recipe.model.base_format);
  if (checkpoint.has_weights) warn_of_stored_head(checkpoint.headers.config, checkpoint.specs[kRootImage]);
  return checkpoint;
}

PlannedModel planned_model(const Recipe& recipe, const OpenedCheckpoint& checkpoint) {
  AdapterSelection adapter = select_adapter(checkpoint.layout(), recipe.adapter, recipe.model.path);
  warn_of_unmatched_targets(adapter.unmatched, recipe.adapter.init_from);
  return PlannedModel(checkpoint, std::move(adapter.targets.modules), adapter.config.lora_dropout);
}

// As text/rows/micro_batches cuts rows of equal length.
int64_t PlannedRun::rows_of_micro_batch() const {
  if (micro_batch_tokens == 0) return micro_batch_size;
  const int64_t most = std::max<int64_t>(1, micro_batch_tokens / max_length);
  const int64_t dealt = num_micro_steps(batch_size, most, mesh.world_size()) * mesh.world_size();
  return (batch_size + dealt - 1) / dealt;
}

int64_t PlannedRun::micro_steps() const {
  return num_micro_steps(batch_size, rows_of_micro_batch(), mesh.world_size());
}

int64_t PlannedRun::sequences_a_step(int64_t rank) const {
  return num_rows_of_step(batch_size, rank, mesh.world_size(), rows_of_micro_batch());
}

int64_t PlannedRun::sequences_at_once(int64_t rank) const {
  if (micro_batch_tokens > max_length && micro_steps() > 1) return (micro_batch_tokens + max_length - 1) / max_length;
  return std::min(rows_of_micro_batch(), sequences_a_step(rank));
}

int64_t PlannedRun::length_at_once() const {
  if (micro_batch_tokens <= max_length || micro_steps() == 1) return max_length;
  const int64_t sequences = sequences_at_once(0);
  return (micro_batch_tokens + sequences - 1) / sequences;
}

PlannedRun planned_run(const Recipe& recipe, const PlannedModel& model, int64_t world_size, int64_t ranks_per_node) {
  PlannedRun run;
  run.mesh = Mesh::make(world_size, {std::max<int64_t>(recipe.mesh.ep, 1), recipe.mesh.fsdp, recipe.mesh.replicate});
  expert_range(model.shape.num_experts, run.mesh.ep, 0);  // refuses more EP ranks than experts
  run.ranks_per_node = ranks_per_node;
  run.batch_size = recipe.train.batch_size.value_or(world_size);
  run.micro_batch_size = recipe.train.micro_batch_size.value_or(1);
  run.max_length = recipe.data.max_length;
  switch (recipe.train.micro_batch_tokens.kind) {
    case MicroBatchTokens::Kind::kNone:
      break;
    case MicroBatchTokens::Kind::kAuto:
      run.micro_batch_tokens = run.max_length;  // unless plan/micro_batch_plan finds more
      break;
    case MicroBatchTokens::Kind::kTokens:
      run.micro_batch_tokens = recipe.train.micro_batch_tokens.tokens;
      break;
  }
  run.device = plans_cuda(recipe.dist.device) ? c10::kCUDA : c10::kCPU;
  run.rates = parse_device("dist.device", run.device.is_cuda() ? "h100" : "cpu");
  run.recompute = recipe.train.recompute != Recompute::kNone;
  run.load_mode = recipe.load.mode;
  run.resident_bytes = recipe.mesh.resident.bytes;
  run.offload = recipe.mesh.offload == Offload::kAuto ? Offload::kNone : recipe.mesh.offload;
  return run;
}

int64_t smallest_world(const MeshConfig& mesh) {
  return std::lcm(std::max<int64_t>(mesh.ep, 1), mesh.fsdp.value_or(1)) * mesh.replicate.value_or(1);
}

GatherSchedule gather_schedule(const PlannedModel& model, const PlannedRun& run, ExpertRange experts) {
  std::vector<HeldImage> images;
  for (const ImageSpec& spec : model.sizes) {
    const int64_t shards = run.mesh.group_size(shard_axis(spec.kind));
    const uint64_t bytes = lay_out_image(spec, experts, shards).nbytes;
    const bool offloaded = is_offloaded(spec.kind, shards, run.offload);
    images.push_back({bytes, offloaded ? 0 : bytes / shards, lane_of(spec.kind), offloaded});
  }
  return GatherSchedule(std::move(images), run.resident_bytes);
}

}  // namespace moraine
