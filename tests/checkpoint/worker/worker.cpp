// Ranks that load a checkpoint while something goes wrong, for load_faults_test.py:
//
//   load_worker [--ranks N] FAULT section.key=value ...
//
// FAULT: none; overwrite:R:S rank R's experts are overwritten with rank S's after loading (what loaders did that fed
// all ranks from rank 0); flip:R one bit of rank R's last shard flips; sleep:SECONDS each reading rank sleeps once in
// the middle; slow:MILLISECONDS every read is slow; parts:BYTES loads all at once, then so many bytes of shards at a
// time, and compares. Prints "verified N ranks" when the load was proved.
#include <fmt/format.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/cpu_features.h"
#include "base/process.h"
#include "checkpoint/loaded_model.h"
#include "distributed/control/launch.h"
#include "distributed/launch/local_ranks.h"
#include "distributed/launch/run_rank.h"
#include "run/run_inputs.h"
#include "train/load_report.h"

namespace moraine {
namespace {

struct Fault {
  std::string name;
  std::vector<int64_t> numbers;
};

Fault parse_fault(const std::string& text) {
  Fault fault;
  size_t begin = text.find(':');
  fault.name = text.substr(0, begin);
  while (begin != std::string::npos) {
    const size_t end = text.find(':', begin + 1);
    fault.numbers.push_back(std::stoll(text.substr(begin + 1, end - begin - 1)));
    begin = end;
  }
  return fault;
}

// What rank `source` holds of the expert images lands on `shards`.
void overwrite_experts(const ShardSpans& shards, const Placement& placement, const CheckpointIndex& index,
                       int64_t source) {
  const LoadPlan plan = plan_reads(placement.shards_of(source), index);
  std::vector<std::vector<std::byte>> bytes;
  ShardSpans spans;
  for (const ShardPlan& shard : plan.shards) {
    bytes.emplace_back(shard.shard.size());
    spans.emplace_back(bytes.back());
  }
  execute_reads(plan, CheckpointFiles(index), spans, 1);
  for (size_t i = 0; i < spans.size(); ++i) {
    if (placement.specs()[i].kind == ImageKind::kExperts && !spans[i].empty())
      std::memcpy(shards[i].data(), spans[i].data(), std::min(shards[i].size(), spans[i].size()));
  }
}

LoadHooks hooks_for(const Fault& fault, int64_t rank, const Placement& placement, const CheckpointIndex& index) {
  LoadHooks hooks;
  if (fault.name == "overwrite" && rank == fault.numbers[0])
    hooks.after_reading = [&, source = fault.numbers[1]](const ShardSpans& s) {
      overwrite_experts(s, placement, index, source);
    };
  if (fault.name == "flip" && rank == fault.numbers[0])
    hooks.after_reading = [](const ShardSpans& s) { s.back()[s.back().size() / 2] ^= std::byte{16}; };
  if (fault.name == "sleep") {
    auto reads = std::make_shared<std::atomic<int64_t>>(0);
    hooks.before_read = [reads, seconds = fault.numbers[0]] {
      if (++*reads == 2) std::this_thread::sleep_for(std::chrono::seconds(seconds));
    };
  }
  if (fault.name == "slow")
    hooks.before_read = [pause = fault.numbers[0]] { std::this_thread::sleep_for(std::chrono::milliseconds(pause)); };
  return hooks;
}

int load(const Fault& fault, const std::vector<std::string>& overrides, Control& control) {
  const Recipe recipe = recipe_from_overrides(overrides);
  control.set_stage("load");
  RunGroups run = make_run_groups(recipe, control);
  const OpenedCheckpoint checkpoint = open_run_checkpoint(recipe, run.groups);
  const Placement placement(checkpoint.specs, checkpoint.shape().num_experts, run.groups.mesh);
  LoadSettings settings = load_settings(recipe, control.world());
  settings.hooks = hooks_for(fault, control.world().rank, placement, checkpoint.headers.index);
  if (fault.name == "parts") {
    const auto load = [&](uint64_t staging_bytes) {
      settings.staging_bytes = staging_bytes;
      return load_shards(placement, checkpoint.headers.index, run.groups, settings).bytes;
    };
    const std::vector<at::Tensor> whole = load(0), parts = load(static_cast<uint64_t>(fault.numbers[0]));
    // Between tensors there may be anything.
    for (const ReadRange& read :
         plan_reads(placement.shards_of(control.world().rank), checkpoint.headers.index).reads) {
      const auto landed = [&](const std::vector<at::Tensor>& images) {
        return images.at(read.image)
            .narrow(0, static_cast<int64_t>(read.shard_offset), static_cast<int64_t>(read.from.landed_nbytes()));
      };
      MORAINE_ASSERT(at::equal(landed(whole), landed(parts)), read.tensor + " has other bytes");
    }
    if (control.world().rank == 0) fmt::print("verified {} ranks, in parts as at once\n", control.world().world_size);
    return 0;
  }
  if (control.world().rank == 0) {
    fmt::print("loading\n");
    std::fflush(stdout);
  }
  const LoadedWeights loaded = load_weights(checkpoint, settings, run.groups);
  if (loaded.report.verified && control.world().rank == 0)
    fmt::print("verified {} ranks\n", control.world().world_size);
  return 0;
}

int run(std::vector<std::string> argv) {
  int64_t ranks = 1;
  if (argv.size() > 2 && argv[1] == "--ranks") {
    ranks = std::stoll(argv[2]);
    argv.erase(argv.begin() + 1, argv.begin() + 3);
  }
  const auto rank = [&] {
    const Fault fault = parse_fault(argv.at(1));
    return run_rank(world_from_environment(), ControlOptions::from_environment(), [&](Control& control) {
      return load(fault, {argv.begin() + 2, argv.end()}, control);
    });
  };
  return ranks > 1 ? run_local_ranks(ranks, rank) : rank();
}

}  // namespace
}  // namespace moraine

int main(int argc, char** argv) {
  moraine::make_write_failures_errors();
  moraine::settle_cpu_computation();
  moraine::end_process(moraine::run({argv, argv + argc}));
}
