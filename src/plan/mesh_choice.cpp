#include "plan/mesh_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "base/bytes.h"
#include "plan/memory_plan.h"

namespace moraine {
namespace {

constexpr uint64_t kGibibyte = uint64_t{1} << 30;

uint64_t usable(uint64_t memory) { return memory / 20 * 19; }

std::vector<Mesh> possible_meshes(const PlannedModel& model, const PlannedRun& run, const Freedom& freedom) {
  if (!freedom.mesh) return {run.mesh};
  const int64_t world = run.mesh.world_size();
  std::vector<Mesh> meshes;
  for (int64_t ep = 1; ep <= std::min(world, model.shape.num_experts); ++ep) {
    if (world % ep != 0) continue;
    // One replica, one on each node, as many as there can be.
    std::set<int64_t> replicas{1, world / run.ranks_per_node, world / ep};
    if (freedom.replicate) replicas = {*freedom.replicate};
    for (int64_t replicate : replicas) {
      if (world / ep % replicate != 0) continue;
      const int64_t replica = world / replicate;
      std::set<int64_t> shards{1, std::min(run.ranks_per_node, replica), replica};
      if (freedom.fsdp) shards = {*freedom.fsdp};
      for (int64_t fsdp : shards)
        if (replica % fsdp == 0) meshes.push_back(Mesh::make(world, {ep, fsdp, replicate}));
    }
  }
  return meshes;
}

// Sharded weights are not offloaded (parallel/placement).
bool can_offload(const Mesh& mesh, Offload offload) {
  return offload == Offload::kNone || (mesh.ep_fsdp == 1 && (offload == Offload::kExperts || mesh.fsdp == 1));
}

class Options {
 public:
  explicit Options(const PlannedModel& model) : model_(model) {}

  // Whether it fits; training refuses some, which are left out.
  bool add(const PlannedRun& run) {
    const GatherSchedule images = gather_schedule(model_, run, expert_range(model_.shape.num_experts, run.mesh.ep, 0));
    if (!run.recompute && !images.all_resident()) return false;
    const RankMemory memory = plan_memory(model_, run, 0);
    const DeviceRates& rates = run.rates;
    const bool fits = (rates.memory == 0 || memory.peak() <= usable(rates.memory)) &&
                      (rates.host_memory == 0 || memory.host <= rates.host_memory);
    options_.push_back({run, memory.peak(), memory.host, fits, predict_step(model_, run)});
    return fits;
  }

  // What the device's memory leaves, in whole GiB.
  PlannedRun keeping_what_fits(PlannedRun run) const {
    const uint64_t peak = plan_memory(model_, run, 0).peak(), limit = usable(run.rates.memory);
    if (peak < limit) run.resident_bytes = (limit - peak) / kGibibyte * kGibibyte;
    return run;
  }

  std::vector<RunOption> take() {
    std::stable_sort(options_.begin(), options_.end(), [](const RunOption& a, const RunOption& b) {
      const auto key = [](const RunOption& o) {
        return std::tuple(!o.fits, o.fits ? o.time.seconds() : 0.0, o.peak, o.run.mesh.ep);
      };
      return key(a) < key(b);
    });
    return std::move(options_);
  }

 private:
  const PlannedModel& model_;
  std::vector<RunOption> options_;
};

}  // namespace

std::vector<RunOption> run_options(const PlannedModel& model, const PlannedRun& run, const Freedom& freedom) {
  using Offloads = std::vector<Offload>;
  Options options(model);
  for (const Mesh& mesh : possible_meshes(model, run, freedom)) {
    for (bool recompute : freedom.recompute ? std::vector{true, false} : std::vector{run.recompute}) {
      for (Offload offload :
           freedom.offload ? Offloads{Offload::kNone, Offload::kExperts, Offload::kAll} : Offloads{run.offload}) {
        if (!can_offload(mesh, offload)) continue;
        PlannedRun option = run;
        option.mesh = mesh, option.recompute = recompute, option.offload = offload;
        if (freedom.offload && offload != Offload::kNone && run.resident_bytes == 0 && run.rates.memory > 0)
          option = options.keeping_what_fits(option);
        if (options.add(option) && freedom.offload) break;  // no more is offloaded than must be
      }
    }
  }
  return options.take();
}

Freedom freedom_of(const Recipe& recipe) {
  return {recipe.mesh.ep == MeshConfig::kAuto, recipe.mesh.fsdp, recipe.mesh.replicate,
          recipe.mesh.offload == Offload::kAuto, recipe.train.recompute == Recompute::kAuto};
}

Recipe decided(Recipe recipe, const PlannedRun& run) {
  const Freedom freedom = freedom_of(recipe);
  if (freedom.mesh) {
    recipe.mesh.ep = run.mesh.ep;
    recipe.mesh.fsdp = run.mesh.fsdp;
    recipe.mesh.replicate = run.mesh.replicate;
  }
  if (freedom.offload) {
    recipe.mesh.offload = run.offload;
    recipe.mesh.resident.bytes = run.resident_bytes;
  }
  if (freedom.recompute) recipe.train.recompute = run.recompute ? Recompute::kFull : Recompute::kNone;
  return recipe;
}

std::string reason_of(const std::vector<RunOption>& options) {
  const RunOption& best = options.front();
  const uint64_t limit = best.run.rates.memory;
  const std::string memory =
      limit == 0 ? format_bytes(best.peak) : fmt::format("{} of {}", format_bytes(best.peak), format_bytes(limit));
  const auto seconds = [](const RunOption& option) { return fmt::format("{:.3g} s a step", option.time.seconds()); };
  std::string text = describe_option(best.run);
  if (!best.fits) return text + fmt::format(": nothing is planned to fit, this needs least, {} a rank", memory);
  text += fmt::format(": predicted to be the fastest that fits, {}, bound by {}, {} a rank", seconds(best),
                      best.time.bound_by(), memory);
  if (options.size() > 1)
    text += fmt::format("; next {}: {}", describe_option(options[1].run),
                        options[1].fits ? seconds(options[1]) : "does not fit");
  return text;
}

std::string describe_option(const PlannedRun& run) {
  std::string text = fmt::format("ep {}, fsdp {}, replicate {}", run.mesh.ep, run.mesh.fsdp, run.mesh.replicate);
  if (run.offload != Offload::kNone) text += fmt::format(", offload {}", word_of(run.offload));
  if (run.resident_bytes > 0) text += fmt::format(", {} resident", format_bytes(run.resident_bytes));
  return text + ", recompute " + (run.recompute ? "full" : "none");
}

}  // namespace moraine
