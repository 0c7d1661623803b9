#include "checkpoint/load.h"

#include <fmt/format.h>

#include <chrono>
#include <limits>

#include "base/process.h"
#include "checkpoint/reader.h"
#include "checkpoint/verify.h"
#include "parallel/weight_store.h"

namespace moraine {
namespace {

// Shards that go to a device are on the host for a while, at most so many bytes of them, or one.
constexpr uint64_t kDeviceStagingBytes = uint64_t{256} << 20;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The ranks that one rank reads for; null when each reads for itself.
ProcessGroup* reading_group(LoadMode mode, MeshGroups& groups) {
  ProcessGroup* group = mode == LoadMode::kNode    ? groups.node.get()
                        : mode == LoadMode::kRank0 ? &groups.host()
                                                   : nullptr;
  return group && group->size() > 1 ? group : nullptr;
}

// `part` names the images of `placement` among the model's.
void read_for_group(const Placement& placement, const CheckpointIndex& index, MeshGroups& groups, ProcessGroup& group,
                    const LoadSettings& settings, const std::string& part, const ShardSpans& shards,
                    LoadReport& report) {
  std::vector<LoadPlan> plans;
  for (int64_t rank : group.ranks()) plans.push_back(plan_reads(placement.shards_of(rank), index));
  std::optional<CheckpointFiles> files;
  if (group.rank() == 0) files.emplace(index);
  // Ranks of several machines share no memory.
  const Transport transport = settings.mode == LoadMode::kRank0 ? Transport::kCollective : settings.transport;
  const Distribution distribution{plans,
                                  files ? &*files : nullptr,
                                  group,
                                  *groups.control,
                                  fmt::format("{}{}/{}", word_of(settings.mode), group.ranks().front(), part),
                                  settings.num_threads,
                                  settings.hooks.before_read};
  const Distributed done = distribute(distribution, transport, shards);
  report.transport = done.transport;
  report.bytes_read += done.bytes_read;
  report.bytes_received += done.bytes_received;
}

// Where consecutive images that are loaded together begin, and the end of the last: the same on every rank.
std::vector<size_t> part_limits(const Placement& placement, const LoadSettings& settings) {
  const uint64_t most = settings.staging_bytes     ? settings.staging_bytes
                        : settings.device.is_cpu() ? std::numeric_limits<uint64_t>::max()
                                                   : kDeviceStagingBytes;
  std::vector<size_t> limits{0};
  uint64_t bytes = 0;
  const std::vector<ShardPlan> shards = placement.shards_of(0);
  for (size_t image = 0; image < shards.size(); ++image) {
    if (bytes > 0 && bytes + shards[image].shard.size() > most) limits.push_back(image), bytes = 0;
    bytes += shards[image].shard.size();
  }
  limits.push_back(shards.size());
  return limits;
}

// Loads the images of `placement`, of those that `loaded` counts.
void load_part(const Placement& placement, const CheckpointIndex& index, MeshGroups& groups,
               const LoadSettings& settings, const std::vector<bool>& on_host, const std::string& part,
               LoadedShards& loaded) {
  const auto start = std::chrono::steady_clock::now();
  LoadReport& report = loaded.report;
  std::vector<at::Tensor> images;
  ShardSpans shards;
  for (const ShardPlan& shard : placement.shards_of(groups.world->rank())) {
    at::Tensor bytes = allocate_image_bytes(shard.shard.size(), at::kCPU);
    shards.emplace_back(static_cast<std::byte*>(bytes.mutable_data_ptr()), bytes.numel());
    report.shard_bytes += shards.back().size();
    images.push_back(std::move(bytes));
  }
  if (ProcessGroup* group = reading_group(settings.mode, groups)) {
    read_for_group(placement, index, groups, *group, settings, part, shards, report);
  } else {
    const LoadPlan plan = plan_reads(placement.shards_of(groups.world->rank()), index);
    execute_reads(plan, CheckpointFiles(index), shards, settings.num_threads, settings.hooks.before_read);
    report.bytes_read += plan.read_bytes;
  }
  report.seconds += seconds_since(start);

  if (settings.hooks.after_reading) settings.hooks.after_reading(shards);
  const auto verify_start = std::chrono::steady_clock::now();
  for (const at::Tensor& bytes : images) {
    if (settings.device.is_cpu()) {
      loaded.bytes.push_back(bytes);
      continue;
    }
    const bool stays = !on_host.empty() && on_host[loaded.bytes.size()];
    loaded.bytes.push_back(stays ? bytes.pin_memory() : bytes.to(settings.device));
    // What is proven is what the passes will read.
    if (settings.verify != Verify::kOff) bytes.zero_().copy_(loaded.bytes.back());
  }
  if (settings.verify != Verify::kOff) {
    report.bytes_verify_read +=
        verify_shards({placement, index, groups, settings.mode, settings.verify, part, settings.num_threads}, shards);
    report.verified = settings.verify == Verify::kFull;
  }
  report.verify_seconds += seconds_since(verify_start);
}

}  // namespace

LoadedShards load_shards(const Placement& placement, const CheckpointIndex& index, MeshGroups& groups,
                         const LoadSettings& settings, const std::vector<bool>& on_host) {
  LoadedShards loaded;
  loaded.report.mode = settings.mode;
  const std::vector<size_t> limits = part_limits(placement, settings);
  if (limits.size() == 2) {
    load_part(placement, index, groups, settings, on_host, "all", loaded);
  } else {
    const auto specs = placement.specs().begin();
    for (size_t i = 0; i + 1 < limits.size(); ++i) {
      const std::vector<ImageSpec> some(specs + static_cast<int64_t>(limits[i]),
                                        specs + static_cast<int64_t>(limits[i + 1]));
      load_part(Placement(some, placement.num_experts(), placement.mesh()), index, groups, settings, on_host,
                std::to_string(limits[i]), loaded);
    }
  }
  loaded.report.peak_rss_bytes = peak_resident_bytes();
  // Others may still be reading, or comparing what this rank holds.
  if (groups.control) groups.control->barrier("loaded", Patience::kWhileAlive);
  return loaded;
}

}  // namespace moraine
