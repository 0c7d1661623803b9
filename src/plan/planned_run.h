// What a plan is about: a model with its adapter, and how a run is spread over ranks and fed. Plain values: to see what
// a change of the recipe would bring is to copy them and change one.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/typed_store.h"
#include "checkpoint/opened_checkpoint.h"
#include "config/recipe.h"
#include "distributed/collectives/mesh.h"
#include "parallel/gather_schedule.h"
#include "plan/device_rates.h"

namespace moraine {

inline constexpr int64_t kFloat = 4;  // bytes of an fp32 value

// Nothing here depends on the mesh.
struct PlannedModel {
  // `checkpoint` outlives the plan; `targets` are the adapted weights with their ranks; `dropout` is lora_dropout.
  PlannedModel(const OpenedCheckpoint& checkpoint, std::vector<LoraModule> targets, double dropout);

  const OpenedCheckpoint& checkpoint;
  const ModelShape& shape;  // the checkpoint's
  std::vector<LoraModule> targets;
  double dropout = 0;
  // What passes of a shape held when they were run (plan/activation_plan); copies share it.
  std::shared_ptr<TypedStore> passes = std::make_shared<TypedStore>();
  // The checkpoint's images with one source per parameter: laid out a thousand times faster, for who needs sizes only.
  std::vector<ImageSpec> sizes;

  int64_t first_adapted_layer() const;
};

// For a plan before a run: neither weights nor data files nor save.dir are looked at. Throw input errors for what
// training would refuse about the model, its files or the adapter.
OpenedCheckpoint open_planned_checkpoint(const Recipe& recipe);  // see open_or_assume_checkpoint
PlannedModel planned_model(const Recipe& recipe, const OpenedCheckpoint& checkpoint);

struct PlannedRun {
  Mesh mesh;
  int64_t ranks_per_node = 1;      // neighbours share a node
  int64_t batch_size = 1;          // sequences per step, the whole world's
  int64_t micro_batch_size = 1;    // of which a rank takes so many at a time,
  int64_t micro_batch_tokens = 0;  // or, unless this is 0, as many as have so many tokens
  int64_t max_length = 2048;       // every sequence is taken to be as long as the recipe allows
  bool recompute = true;           // train.recompute: full
  c10::Device device = c10::kCPU;
  DeviceRates rates;            // of `device`
  uint64_t resident_bytes = 0;  // mesh.resident
  Offload offload = Offload::kNone;
  LoadMode load_mode = LoadMode::kDirect;

  int64_t node_of(int64_t rank) const { return rank / ranks_per_node; }
  int64_t micro_steps() const;
  int64_t rows_of_micro_batch() const;  // of max_length
  // The most sequences that `rank` has at a time and how long they are, and those it has in a whole step. Where shorter
  // ones than max_length could have more tokens together (train.micro_batch_tokens), it is these.
  int64_t sequences_at_once(int64_t rank) const;
  int64_t length_at_once() const;
  int64_t sequences_a_step(int64_t rank) const;
};

// What a rank with `experts` keeps and gathers of the base, as WeightStore does.
GatherSchedule gather_schedule(const PlannedModel& model, const PlannedRun& run, ExpertRange experts);

// The run that `recipe` describes on `world_size` ranks; dist.device: auto is what it would be here, and `rates` those
// of the CPU or of a GPU that stands for others; what the recipe leaves to be decided is as by default. Throws the
// input errors of training about the mesh: sizes that do not divide, more EP ranks than experts.
PlannedRun planned_run(const Recipe& recipe, const PlannedModel& model, int64_t world_size, int64_t ranks_per_node);

// The smallest world that the recipe's mesh section fits.
int64_t smallest_world(const MeshConfig& mesh);

}  // namespace moraine
