#include "plan/plan_advice.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "plan/memory_plan.h"
#include "plan/traffic_plan.h"

namespace moraine {
namespace {

constexpr int64_t kMostRanks = 1 << 16, kShortestLength = 128;

// A changed run and the recipe keys that change it.
struct Option {
  PlannedRun run;
  std::string keys;
  uint64_t peak = 0;
};

class Advisor {
 public:
  Advisor(const PlannedModel& model, uint64_t limit) : model_(model), limit_(limit) {}

  // Changes of one key that do not change what is trained.
  std::vector<Option> harmless_changes(const PlannedRun& run) const {
    std::vector<Option> options;
    const Mesh& mesh = run.mesh;
    const bool fsdp_is_auto = mesh.fsdp == mesh.replica_size();
    auto add_mesh = [&](int64_t ep, std::optional<int64_t> fsdp, int64_t replicate, const std::string& keys) {
      const int64_t replica = mesh.world_size() / replicate;
      if (replica % ep != 0 || replica % fsdp.value_or(1) != 0 || ep > model_.shape.num_experts) return;
      PlannedRun changed = run;
      changed.mesh = Mesh::make(mesh.world_size(), {ep, fsdp, replicate});
      add(options, changed, keys);
    };
    const auto fsdp = fsdp_is_auto ? std::nullopt : std::optional(mesh.fsdp);
    for (int64_t ep = 1; ep <= std::min(model_.shape.num_experts, mesh.replica_size()); ++ep)
      if (ep != mesh.ep) add_mesh(ep, fsdp, mesh.replicate, fmt::format("mesh.ep={}", ep));
    if (!fsdp_is_auto) add_mesh(mesh.ep, std::nullopt, mesh.replicate, "mesh.fsdp=auto");
    if (mesh.replicate > 1) add_mesh(mesh.ep, fsdp, 1, "mesh.replicate=1");
    if (run.micro_batch_tokens > run.max_length) {
      PlannedRun changed = run;
      changed.micro_batch_tokens = run.max_length;
      add(options, changed, fmt::format("train.micro_batch_tokens={}", run.max_length));
    }
    if (run.micro_batch_size > 1) {
      PlannedRun changed = run;
      changed.micro_batch_size = 1;
      add(options, changed, "train.micro_batch_size=1");
    }
    if (!run.recompute) {
      PlannedRun changed = run;
      changed.recompute = true;
      add(options, changed, "train.recompute=full");
    }
    return options;
  }

  // Changes by the one that saves most, again and again, as long as it helps and the run does not fit.
  Option least_by_harmless_changes(Option at) const {
    while (at.peak > limit_) {
      std::vector<Option> options = harmless_changes(at.run);
      auto best = std::min_element(options.begin(), options.end(),
                                   [](const Option& a, const Option& b) { return a.peak < b.peak; });
      if (best == options.end() || best->peak >= at.peak) break;
      // A key that is changed twice keeps its last value.
      at = {best->run, joined(at.keys, best->keys), best->peak};
    }
    return at;
  }

  std::optional<Option> shorter_sequences(const Option& from) const {
    for (int64_t length = from.run.max_length / 2; length >= kShortestLength; length /= 2) {
      PlannedRun changed = from.run;
      changed.max_length = length;
      std::string keys = joined(from.keys, fmt::format("data.max_length={}", length));
      if (changed.micro_batch_tokens > 0) {
        changed.micro_batch_tokens = length;
        keys = joined(keys, fmt::format("train.micro_batch_tokens={}", length));
      }
      const uint64_t peak = largest_peak(model_, changed);
      if (peak <= limit_) return Option{changed, keys, peak};
    }
    return std::nullopt;
  }

  // The smallest world, twice as large each time, with the mesh that needs least; the batch grows with it.
  std::optional<Option> more_ranks(const PlannedRun& run) const {
    const int64_t world = run.mesh.world_size();
    for (int64_t factor = 2; world * factor <= kMostRanks; factor *= 2) {
      PlannedRun larger = run;
      larger.micro_batch_size = 1;
      larger.micro_batch_tokens = 0;
      larger.recompute = true;
      larger.batch_size = run.batch_size * factor;
      std::optional<Option> best;
      for (int64_t ep = 1; ep <= std::min(model_.shape.num_experts, world * factor); ++ep) {
        if (world * factor % ep != 0) continue;
        larger.mesh = Mesh::make(world * factor, {ep, {}, {}});
        const uint64_t peak = largest_peak(model_, larger);
        if (!best || peak < best->peak) best = Option{larger, fmt::format("mesh.ep={}", ep), peak};
      }
      if (best && best->peak <= limit_) return best;
    }
    return std::nullopt;
  }

  bool fits(const Option& option) const { return option.peak <= limit_; }

 private:
  void add(std::vector<Option>& options, const PlannedRun& run, const std::string& keys) const {
    const RankMemory memory = plan_memory(model_, run, 0);
    if (!run.recompute && memory.gather_buffers > 0) return;  // training would refuse it
    options.push_back({run, keys, memory.peak()});
  }

  static std::string joined(const std::string& keys, const std::string& more) {
    const std::string name = more.substr(0, more.find('=') + 1);
    std::string kept;
    for (size_t begin = 0; begin < keys.size();) {
      const size_t end = std::min(keys.find(' ', begin), keys.size());
      const std::string key = keys.substr(begin, end - begin);
      if (!key.starts_with(name)) kept += key + " ";
      begin = end + 1;
    }
    return kept + more;
  }

  const PlannedModel& model_;
  uint64_t limit_;
};

}  // namespace

std::string plan_advice(const PlannedModel& model, const PlannedRun& run, uint64_t limit) {
  const Advisor advisor(model, limit);
  const uint64_t now = largest_peak(model, run);
  auto brings = [&](const Option& option) {
    return fmt::format("{} would bring the fullest rank from {} to {}", option.keys, format_bytes(now),
                       format_bytes(option.peak));
  };
  std::vector<Option> single = advisor.harmless_changes(run);
  const auto most =
      std::min_element(single.begin(), single.end(), [](const Option& a, const Option& b) { return a.peak < b.peak; });
  if (most != single.end() && advisor.fits(*most)) return brings(*most);
  const Option several = advisor.least_by_harmless_changes({run, "", now});
  if (advisor.fits(several)) return brings(several);
  if (const auto shorter = advisor.shorter_sequences({run, "", now})) return brings(*shorter);
  if (const auto shorter = advisor.shorter_sequences(several)) return brings(*shorter);
  const std::string here = fmt::format(
      "nothing does on {} rank{}: {}", run.mesh.world_size(), run.mesh.world_size() == 1 ? "" : "s",
      several.keys.empty() ? fmt::format("the fullest needs {}", format_bytes(now))
                           : fmt::format("the least is {} with {}", format_bytes(several.peak), several.keys));
  const auto more = advisor.more_ranks(run);
  if (!more) return fmt::format("{}; nor do up to {} ranks", here, kMostRanks);
  return fmt::format("{}; {} ranks with {} need {} each", here, more->run.mesh.world_size(), more->keys,
                     format_bytes(more->peak));
}

std::string traffic_advice(const PlannedModel& model, const PlannedRun& run) {
  const Mesh& mesh = run.mesh;
  const auto received = [&](const PlannedRun& of) { return StepTrafficPlanner(model, of).of(0); };
  const StepTraffic now = received(run);
  PlannedRun best = run;
  double least = now.total().total();
  for (int64_t ep = 1; ep <= std::min(model.shape.num_experts, mesh.replica_size()); ++ep) {
    if (mesh.replica_size() % ep != 0 || run.offload != Offload::kNone) continue;
    PlannedRun changed = run;
    changed.mesh = Mesh::make(mesh.world_size(), {ep, mesh.fsdp, mesh.replicate});
    const double bytes = received(changed).total().total();
    if (bytes < least) best = changed, least = bytes;
  }
  if (least * 2 >= now.total().total()) return "";
  const double ranks = static_cast<double>(mesh.world_size());
  const auto shown = [](double bytes) { return format_bytes(static_cast<uint64_t>(bytes)); };
  return fmt::format(
      "with mesh.ep={} the ranks would gather {} of base weights a step instead of {}, and send tokens to their "
      "experts: "
      "each would receive {} instead of {}",
      best.mesh.ep, shown(received(best).image_gathers.total() * ranks), shown(now.image_gathers.total() * ranks),
      shown(least), shown(now.total().total()));
}

}  // namespace moraine
