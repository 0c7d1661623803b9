#include "train/auto_choice.h"

#include <ATen/DeviceAccelerator.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/json.h"
#include "base/log.h"
#include "base/process.h"
#include "distributed/collectives/device.h"
#include "plan/mesh_choice.h"
#include "run/run_folder.h"

namespace moraine {
namespace {

struct Decision {
  Recipe recipe;
  std::string reason;
};

// What was decided, as it travels from rank 0.
Json decision_json(const Recipe& recipe) {
  return {recipe.mesh.ep,
          recipe.mesh.fsdp.value_or(MeshConfig::kAuto),
          recipe.mesh.replicate.value_or(MeshConfig::kAuto),
          recipe.mesh.resident.bytes,
          static_cast<int>(recipe.mesh.offload),
          static_cast<int>(recipe.train.recompute)};
}

Recipe with_decision(Recipe recipe, const Json& json) {
  const auto unless_auto = [](int64_t number) {
    return number == MeshConfig::kAuto ? std::nullopt : std::optional(number);
  };
  recipe.mesh.ep = json[0].get<int64_t>();
  recipe.mesh.fsdp = unless_auto(json[1].get<int64_t>());
  recipe.mesh.replicate = unless_auto(json[2].get<int64_t>());
  recipe.mesh.resident.bytes = json[3].get<uint64_t>();
  recipe.mesh.offload = static_cast<Offload>(json[4].get<int>());
  recipe.train.recompute = static_cast<Recompute>(json[5].get<int>());
  return recipe;
}

// The figures of this rank's device: of a GPU those of the known one whose memory is nearest to its own.
DeviceRates rates_here(const Recipe& recipe, const WorldInfo& world) {
  const c10::Device device =
      choose_device(recipe.dist.device, visible_cuda_devices(), world, recipe.dist.backend == BackendChoice::kGloo);
  const uint64_t host = available_memory_bytes() / static_cast<uint64_t>(std::max<int64_t>(world.local_world_size, 1));
  if (device.is_cpu()) {
    DeviceRates rates = parse_device("dist.device", "cpu");
    rates.memory = host;
    return rates;
  }
  use_device(device, recipe.train.deterministic);  // what it warns of, the run says
  const auto memory = at::accelerator::getMemoryInfo(device.index());
  const uint64_t free = memory.first, total = memory.second;
  const auto difference = [&](const DeviceRates& known) {
    return known.is_gpu ? std::max(known.memory, total) - std::min(known.memory, total) : UINT64_MAX;
  };
  DeviceRates rates =
      *std::min_element(known_devices().begin(), known_devices().end(),
                        [&](const DeviceRates& a, const DeviceRates& b) { return difference(a) < difference(b); });
  rates.memory = free;
  rates.host_memory = host;
  return rates;
}

// What the run that would go on has taken.
std::optional<Decision> kept(const Recipe& recipe, int64_t world_size) try {
  const std::filesystem::path saved = RunFolder(recipe.save.dir).path() / "recipe.yaml";
  std::error_code ignored;
  if (recipe.save.resume.kind != ResumeFrom::Kind::kAuto || !std::filesystem::exists(saved, ignored))
    return std::nullopt;
  const Recipe before = read_recipe(saved.string(), {});
  const Freedom freedom = freedom_of(recipe);
  Recipe same = recipe;
  if (freedom.mesh) {
    same.mesh.ep = before.mesh.ep;
    if (!recipe.mesh.fsdp) same.mesh.fsdp = before.mesh.fsdp;
    if (!recipe.mesh.replicate) same.mesh.replicate = before.mesh.replicate;
  }
  if (freedom.offload) {
    same.mesh.offload = before.mesh.offload;
    same.mesh.resident = before.mesh.resident;
  }
  if (freedom.recompute) same.train.recompute = before.train.recompute;
  if (leaves_choices(same)) return std::nullopt;
  Mesh::make(world_size, {same.mesh.ep, same.mesh.fsdp, same.mesh.replicate});
  return Decision{same, fmt::format("mesh and recomputation stay those of the run in {}", recipe.save.dir)};
} catch (const Error&) {  // of another world, or no recipe any more
  return std::nullopt;
}

Decision decide(const Recipe& recipe, const WorldInfo& world) {
  if (auto before = kept(recipe, world.world_size)) return *before;
  const OpenedCheckpoint checkpoint = open_planned_checkpoint(recipe);
  const PlannedModel model = planned_model(recipe, checkpoint);
  PlannedRun run = planned_run(recipe, model, world.world_size, world.local_world_size);
  run.rates = rates_here(recipe, world);
  const std::vector<RunOption> options = run_options(model, run, freedom_of(recipe));
  return {decided(recipe, options.front().run), reason_of(options)};
}

}  // namespace

Recipe with_choices_made(const Recipe& recipe, Control& control) {
  if (!leaves_choices(recipe)) return recipe;
  constexpr const char* kKey = "auto_choice";
  const WorldInfo& world = control.world();
  if (world.rank != 0) {
    const std::string said = control.wait_for(kKey, "rank 0's choice of the mesh", Patience::kWhileAlive);
    return with_decision(recipe, Json::parse(said));
  }
  const Decision decision = decide(recipe, world);
  log_info("auto: {}", decision.reason);
  if (world.distributed()) control.put(kKey, decision_json(decision.recipe).dump());
  return decision.recipe;
}

}  // namespace moraine
