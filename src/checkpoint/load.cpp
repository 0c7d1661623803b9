#include "checkpoint/load.h"

#include <fmt/format.h>

#include <chrono>

#include "base/process.h"
#include "checkpoint/reader.h"
#include "checkpoint/verify.h"
#include "parallel/weight_store.h"

namespace moraine {
namespace {

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

void read_for_group(const Placement& placement, const CheckpointIndex& index, MeshGroups& groups, ProcessGroup& group,
                    const LoadSettings& settings, const ShardSpans& shards, LoadReport& report) {
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
                                  fmt::format("{}{}", word_of(settings.mode), group.ranks().front()),
                                  settings.num_threads,
                                  settings.hooks.before_read};
  const Distributed done = distribute(distribution, transport, shards);
  report.transport = done.transport;
  report.bytes_read = done.bytes_read;
  report.bytes_received = done.bytes_received;
}

}  // namespace

LoadedShards load_shards(const Placement& placement, const CheckpointIndex& index, MeshGroups& groups,
                         const LoadSettings& settings) {
  const auto start = std::chrono::steady_clock::now();
  LoadedShards loaded;
  LoadReport& report = loaded.report;
  report.mode = settings.mode;
  ShardSpans shards;
  for (const ShardPlan& shard : placement.shards_of(groups.world->rank())) {
    at::Tensor bytes = allocate_image_bytes(shard.shard.size(), at::kCPU);
    shards.emplace_back(static_cast<std::byte*>(bytes.mutable_data_ptr()), bytes.numel());
    report.shard_bytes += shards.back().size();
    loaded.bytes.push_back(std::move(bytes));
  }
  if (ProcessGroup* group = reading_group(settings.mode, groups)) {
    read_for_group(placement, index, groups, *group, settings, shards, report);
  } else {
    const LoadPlan plan = plan_reads(placement.shards_of(groups.world->rank()), index);
    execute_reads(plan, CheckpointFiles(index), shards, settings.num_threads, settings.hooks.before_read);
    report.bytes_read = plan.read_bytes;
  }
  report.seconds = seconds_since(start);

  if (settings.hooks.after_reading) settings.hooks.after_reading(shards);
  const auto verify_start = std::chrono::steady_clock::now();
  if (settings.verify != Verify::kOff) {
    report.bytes_verify_read =
        verify_shards({placement, index, groups, settings.mode, settings.verify, settings.num_threads}, shards);
    report.verified = settings.verify == Verify::kFull;
  }
  report.verify_seconds = seconds_since(verify_start);
  report.peak_rss_bytes = peak_resident_bytes();
  if (!settings.device.is_cpu()) {
    for (at::Tensor& bytes : loaded.bytes) bytes = bytes.to(settings.device);
  }
  // Others may still be reading, or comparing what this rank holds.
  if (groups.control) groups.control->barrier("loaded", Patience::kWhileAlive);
  return loaded;
}

}  // namespace moraine
