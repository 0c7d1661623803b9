// Loading against plain reads of as many bytes, turn by turn in the same ranks:
//
//   load_speed --ranks N ROUNDS section.key=value ...
//
// A round is one load of every rank's shards (load.verify is off) and one plain pread: `threads` threads of every rank
// read its share of every file, 8 MiB at a time, into one fresh buffer of huge pages. Which comes first alternates.
// Both begin at a barrier and free their memory before the other begins; a time is that of the slowest rank. Prints a
// line of JSON a round: {"load": s, "pread": s}.
#include <fcntl.h>
#include <fmt/format.h>

#include <chrono>

#include "base/cpu_features.h"
#include "base/file.h"
#include "base/workers.h"
#include "checkpoint/loaded_model.h"
#include "distributed/control/launch.h"
#include "distributed/launch/local_ranks.h"
#include "distributed/launch/run_rank.h"
#include "parallel/weight_store.h"
#include "run/run_inputs.h"

namespace moraine {
namespace {

double pread_share(const CheckpointIndex& index, const WorldInfo& world, int num_threads) {
  constexpr uint64_t kRead = uint64_t{8} << 20;
  const auto start = std::chrono::steady_clock::now();
  struct Part {
    size_t file;
    uint64_t offset, size, to;
  };
  std::vector<File> files;
  std::vector<Part> parts;
  uint64_t total = 0;
  for (const SafetensorsHeader& header : index.files) {
    files.emplace_back(header.path);
    const uint64_t size = files.back().size(), end = size * (world.rank + 1) / world.world_size;
    for (uint64_t at = size * world.rank / world.world_size; at < end; at += kRead) {
      parts.push_back({files.size() - 1, at, std::min(kRead, end - at), total});
      total += parts.back().size;
    }
  }
  at::Tensor bytes = allocate_image_bytes(total, at::kCPU);
  auto* to = static_cast<std::byte*>(bytes.mutable_data_ptr());
  for_each_item(parts.size(), num_threads, [&](size_t i) {
    files[parts[i].file].read_exact({to + parts[i].to, parts[i].size}, parts[i].offset);
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int measure(int64_t rounds, const std::vector<std::string>& overrides, Control& control) {
  const Recipe recipe = recipe_from_overrides(overrides);
  control.set_stage("load");
  RunGroups run = make_run_groups(recipe, control);
  const OpenedCheckpoint checkpoint = open_run_checkpoint(recipe, run.groups);
  const CheckpointIndex& index = checkpoint.headers.index;
  const Placement placement(checkpoint.specs, checkpoint.shape().num_experts, run.groups.mesh);
  LoadSettings settings = load_settings(recipe, control.world());
  settings.verify = Verify::kOff;
  const auto load = [&] { return load_shards(placement, index, run.groups, settings).report.seconds; };
  const auto pread = [&] { return pread_share(index, control.world(), settings.num_threads); };
  for (int64_t round = 0; round < rounds; ++round) {
    at::Tensor seconds = at::zeros({2}, at::kDouble);
    for (const bool loads : {round % 2 == 0, round % 2 != 0}) {
      at::Tensor ready = at::zeros({1});
      run.groups.world->all_reduce(ready);
      seconds[loads ? 0 : 1] = loads ? load() : pread();
    }
    run.groups.world->all_reduce(seconds, ReduceKind::kMax);
    if (control.world().rank == 0)
      fmt::print("{{\"load\": {:.4f}, \"pread\": {:.4f}}}\n", seconds[0].item<double>(), seconds[1].item<double>());
  }
  return 0;
}

int run(std::vector<std::string> argv) {
  int64_t ranks = 1;
  if (argv.size() > 3 && argv[1] == "--ranks") {
    ranks = std::stoll(argv[2]);
    argv.erase(argv.begin() + 1, argv.begin() + 3);
  }
  const auto rank = [&] {
    return run_rank(world_from_environment(), ControlOptions::from_environment(), [&](Control& control) {
      return measure(std::stoll(argv.at(1)), {argv.begin() + 2, argv.end()}, control);
    });
  };
  return ranks > 1 ? run_local_ranks(ranks, rank) : rank();
}

}  // namespace
}  // namespace moraine

int main(int argc, char** argv) {
  moraine::avoid_undescribed_amx();
  return moraine::run({argv, argv + argc});
}
